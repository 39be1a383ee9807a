"""Several nodes on this machine with a certificate each, which know where the others are."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from actors.core.node_roles import ROLES
from supervision.contracts import StartChild
from supervision.nodes import ROOT
from supervision.root import Root
from supervision.runtime import Address, Endpoint
from supervision.security.authority import Authority
from supervision.spec import SupervisorOptions
from tests.support.ports import free_port
from tests.support.runtime_node import Node, running_node

HOST = "127.0.0.1"
CLASSES = ["supervision.*", "tests.support.supervised_children.*"]


class Nodes:
    """`nodes` by id; `stop` one with a kill or in order."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        capabilities: Mapping[str, Mapping[str, Any]],
        leaders: tuple[str, ...],
    ) -> None:
        self.authority = Authority.init(folder / "ca", "blue")
        self.ports = {node: free_port() for node in capabilities}
        self.routes = {node: f"{HOST}:{port}" for node, port in self.ports.items()}
        self._capabilities = capabilities
        self._leaders = [f"{node}/admin/{self.ports[node]}" for node in leaders]
        self.nodes: dict[str, Node] = {}
        for node in capabilities:
            self.authority.issue(node, roles=ROLES)
            self.start(stack, node)

    def start(self, stack: ExitStack, node: str) -> Node:
        led = {"Convention Address.IPv4": self._leaders} if self._leaders else {}
        capabilities = {
            "Node Id": node,
            "Admin Port": self.ports[node],
            "Tls Identity Dir": str(self.authority.folder_of(node)),
            "Listen": HOST,
            "Routes": self.routes,
            "Actor Classes": CLASSES,
            "node": node,
            **led,
            **self._capabilities[node],
        }
        self.nodes[node] = stack.enter_context(running_node(**capabilities))
        return self.nodes[node]

    def endpoint(self, node: str) -> Endpoint:
        return self.nodes[node].endpoint(
            identity_dir=str(self.authority.folder_of(node)), routes=self.routes
        )

    def admin(self, node: str) -> Address:
        return Address.admin(node, self.ports[node])


@contextlib.contextmanager
def cluster_of(
    capabilities: Mapping[str, Mapping[str, Any]], *, leaders: tuple[str, ...] = ()
) -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="cl-"))
    try:
        with ExitStack() as stack:
            yield Nodes(folder, stack, capabilities, leaders)
    finally:
        shutil.rmtree(folder)


async def grown(endpoint: Endpoint, options: SupervisorOptions) -> Address:
    """A root by the name that all nodes give it."""
    root = await endpoint.create(Root, global_name=ROOT)
    start = StartChild(
        path="", generation=1, parent="", root="", args=msgspec.msgpack.encode(options)
    )
    await endpoint.ask(root, start, timeout=60)
    return root
