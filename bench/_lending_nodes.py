"""Two nodes with certificates, of which one lends what is in its cache."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import msgspec
from thespian.actors import ActorSystem

from actors.artifacts.options import ArtifactOptions
from actors.core.node_roles import ROLES
from actors.depot import Depot, DepotOptions
from actors.depot.peer_sources import PeerNode, PeerNodes, PeerSources
from bench.between_nodes import HOST, free_port
from supervision.contracts import StartChild
from supervision.nodes import ROOT
from supervision.root import Root
from supervision.runtime import Endpoint
from supervision.runtime.options import NodeOptions
from supervision.security.authority import Authority
from supervision.spec import SupervisorOptions


class LendingNodes:
    """`n1` has a depot over `cache_dir`; `lenders` are what a process of `n2` knows of it."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tb"))
        authority = Authority.init(self._folder / "ca", "bench")
        ports = {node: free_port() for node in ("n1", "n2")}
        routes = {node: f"{HOST}:{port}" for node, port in ports.items()}
        self._systems = []
        for node, port in ports.items():
            authority.issue(node, roles=ROLES)
            capabilities = {
                "Node Id": node,
                "Admin Port": port,
                "Run Dir": str(self._folder / node),
                "Actor Classes": ["actors.depot.*", "supervision.*"],
                "Tls Identity Dir": str(authority.folder_of(node)),
                "Listen": HOST,
                "Routes": routes,
            }
            self._systems.append(ActorSystem("tether", capabilities, transientUnique=True))
        asyncio.run(self._grow(ports["n1"], cache_dir))
        self.lenders = PeerSources(
            NodeOptions(
                node="n2",
                port=ports["n2"],
                run_dir=str(self._folder / "n2"),
                identity_dir=str(authority.folder_of("n2")),
                routes=tuple(routes.items()),
            ),
            PeerNodes(nodes=(PeerNode(id="n1", region="local", admin_port=ports["n1"]),)),
        )

    async def _grow(self, port: int, cache_dir: Path) -> None:
        artifacts = ArtifactOptions(trust="off", cache_bytes=1 << 50)
        depot = Depot.spec(DepotOptions(cache_dir=str(cache_dir), artifacts=artifacts))
        run_dir = str(self._folder / "n1")
        async with Endpoint.connect(run_dir=run_dir, node="n1", port=port) as endpoint:
            root = await endpoint.create(Root, global_name=ROOT)
            args = msgspec.msgpack.encode(SupervisorOptions(children=(depot,)))
            start = StartChild(path="", generation=1, parent="", root="", args=args)
            await endpoint.ask(root, start, timeout=60)

    def stop(self) -> None:
        for system in self._systems:
            system.shutdown()
        shutil.rmtree(self._folder)
