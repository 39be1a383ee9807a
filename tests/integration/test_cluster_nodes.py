"""How a process of one node finds the processes of another, over mutual TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from runtime_node import Node, running_node, wait_for
from supervised_children import Stub, StubOptions
from test_tls_nodes import HOST, free_port

from actors.nodes import ROOT, root_of_node, tree_of_node
from actors.runtime import Address, Endpoint
from supervision import Root, SupervisorOptions, stop_tree
from tether.contracts import Readiness, StartChild
from tether.errors import PeerLost, Unavailable
from tether.security.authority import Authority


class Two:
    """Nodes n1 and n2 with certificates of one authority, and a stranger's for a third."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.authority = Authority.init(folder / "ca", "blue")
        self.ports = {"n1": free_port(), "n2": free_port()}
        self.routes = dict.fromkeys(self.ports, HOST)
        self.nodes: dict[str, Node] = {}
        for node, port in self.ports.items():
            self.authority.issue(node)
            capabilities = {
                "Node Id": node,
                "Admin Port": port,
                "Tls Identity Dir": str(self.authority.folder_of(node)),
                "Listen": HOST,
                "Routes": self.routes,
                "Actor Classes": ["supervision.*", "supervised_children.*"],
            }
            self.nodes[node] = stack.enter_context(running_node(**capabilities))

    def endpoint(self, node: str) -> Endpoint:
        return self.nodes[node].endpoint(
            identity_dir=str(self.authority.folder_of(node)), routes=self.routes
        )


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    folder = Path(tempfile.mkdtemp(prefix="cl-"))
    try:
        with ExitStack() as stack:
            yield Two(folder, stack)
    finally:
        shutil.rmtree(folder)


async def grown(endpoint: Endpoint) -> Address:
    """A root by the name that all nodes give it, with one child, `stub`."""
    options = SupervisorOptions(children=(Stub.spec(StubOptions()),))
    root = await endpoint.create(Root, global_name=ROOT)
    start = StartChild(
        path="", generation=1, parent="", root="", args=msgspec.msgpack.encode(options)
    )
    await endpoint.ask(root, start, timeout=60)
    return root


async def test_a_node_finds_the_tree_of_another(two: Two) -> None:
    async with two.endpoint("n1") as here, two.endpoint("n2") as there:
        with pytest.raises(Unavailable, match="no root supervisor"):
            await root_of_node(here, "n2", two.ports["n2"], timeout=30)
        root = await grown(there)
        assert await root_of_node(here, "n2", two.ports["n2"], timeout=30) == root
        tree = await tree_of_node(here, "n2", two.ports["n2"], timeout=30)
        found = tree.address("stub")
        assert found is not None
        # What was found can be asked, and its end is seen from here.
        assert (await here.ask(found, Readiness(), 30)).models == ("stub",)
        gone = asyncio.Event()
        here.watch(found, gone.set)
        os.kill(Address.parse(found).pid, signal.SIGKILL)
        await asyncio.wait_for(gone.wait(), 30)
        await stop_tree(there, root)
        await asyncio.to_thread(wait_for, lambda: not _answers(root.pid), 30)
        async with asyncio.timeout(30):
            while (await _root(here, two.ports["n2"])) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        again = await grown(there)
        assert again != root
        assert await root_of_node(here, "n2", two.ports["n2"], timeout=30) == again
        await stop_tree(there, again)


async def test_nobody_is_found_without_a_certificate(two: Two) -> None:
    async with two.nodes["n1"].endpoint() as stranger:
        with pytest.raises(PeerLost):
            await tree_of_node(stranger, "n2", two.ports["n2"], timeout=30)


async def _root(endpoint: Endpoint, port: int) -> Address | None:
    try:
        return await root_of_node(endpoint, "n2", port, timeout=30)
    except Unavailable:
        return None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
