"""Nodes with certificates that lend each other artifacts, and a shop whose models they have."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.artifacts.cache import Cache, Held
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.pull import Progress, Pull
from actors.artifacts.replicas import Replicas
from actors.artifacts.source import cache_of
from actors.artifacts.trust import Trust
from actors.depot import Depot, DepotOptions
from actors.depot.peer_sources import DEPOT, PeerNode, PeerNodes, PeerSources
from supervision.errors import TetherError
from supervision.nodes import root_of_node, tree_of_node
from supervision.root import stop_tree
from supervision.runtime import Address
from supervision.runtime.options import NodeOptions
from supervision.spec import ChildSpec, SupervisorOptions
from tests.support.artifact_shop import MIB, Shop, Signer, now, write_trust
from tests.support.cluster_nodes import Nodes, cluster_of, grown
from tests.support.waiting import PATIENCE_S

CLASSES = ["supervision.*", "tests.support.supervised_children.*", "actors.*"]


class Lending:
    """`nodes` of which the `lenders` have a depot each, over a cache and a trust store of their
    own. The test itself borrows as a process of node `n2`."""

    def __init__(self, path: Path, nodes: Nodes, regions: Mapping[str, str]) -> None:
        self.path = path
        self.nodes = nodes
        self.regions = regions
        self.signers: list[Signer] = []
        self.trust = write_trust(path / "trust")
        self._numbers = itertools.count(1)

    def artifacts(self, shop: Shop | None = None, **options: Any) -> ArtifactOptions:
        urls = shop.urls if shop is not None else [(self.path / "nowhere").as_uri()]
        return ArtifactOptions(replicas=tuple(urls), trust_dir=str(self.trust), **options)

    def cache(self, node: str) -> Cache:
        return cache_of(self.path / node, self.artifacts())

    def depot(self, node: str, **options: Any) -> ChildSpec:
        """The depot of this node, with artifacts options among `options`."""
        names = DepotOptions.__struct_fields__
        own = {name: options.pop(name) for name in list(options) if name in names}
        return Depot.spec(
            DepotOptions(
                cache_dir=str(self.path / node), artifacts=self.artifacts(**options), **own
            )
        )

    async def grow(self, node: str, *children: ChildSpec) -> Address:
        async with self.nodes.endpoint(node) as endpoint:
            return await grown(endpoint, SupervisorOptions(intensity=50, children=children))

    async def fell(self, node: str) -> None:
        """End the tree of this node."""
        async with self.nodes.endpoint(node) as endpoint:
            root = await root_of_node(endpoint, node, self.nodes.ports[node], timeout=PATIENCE_S)
            await stop_tree(endpoint, root)

    async def child_of(self, node: str, path: str = DEPOT, but_not: int = 0) -> Address:
        """The running child of this node, of another process than `but_not`."""
        port = self.nodes.ports[node]
        async with self.nodes.endpoint(node) as endpoint, asyncio.timeout(PATIENCE_S):
            while True:
                found = (await tree_of_node(endpoint, node, port, timeout=PATIENCE_S)).address(path)
                if found and Address.parse(found).pid != but_not:
                    return Address.parse(found)
                await asyncio.sleep(0.02)

    def around(self, region: str = "") -> PeerNodes:
        """As `n2` sees the others, if it were in this region."""
        return PeerNodes(
            region=region or self.regions["n2"],
            nodes=tuple(
                PeerNode(id=node, region=self.regions[node], admin_port=self.nodes.ports[node])
                for node in self.nodes.ports
            ),
        )

    def options(self) -> NodeOptions:
        """Those of a process of `n2`."""
        return NodeOptions(
            node="n2",
            port=self.nodes.ports["n2"],
            run_dir=str(self.nodes.nodes["n2"].run_dir),
            identity_dir=str(self.nodes.authority.folder_of("n2")),
            routes=tuple(self.nodes.routes.items()),
        )

    def lenders(self, region: str = "") -> PeerSources:
        """What a process knows for whom no time passes: who is left alone stays so."""
        return PeerSources(self.options(), self.around(region), clock=lambda: 0.0)

    async def shop(self, *had_by: str, size: int = 9 * MIB, seed: int = 0) -> Shop:
        """A new model, at three replicas and in the caches of some nodes."""
        number = next(self._numbers)
        path = self.path / f"shop-{number}"
        path.mkdir()
        shop = Shop(path, size=size, seed=seed or number)
        shop.signer.name = f"release-{number}"
        self.signers.append(shop.signer)
        self.say_trust()
        await shop.push()
        shop.cache = Cache(path / "cache-n2", 1 << 30)
        for node in had_by:
            await self.give(node, shop)
        return shop

    async def give(self, node: str, shop: Shop) -> None:
        """It has this model in its cache."""
        pull = Pull(self.cache(node), shop.replicas(), self.read_trust(), now)
        (await pull.obtain(shop.digest)).release()

    def say_trust(self, extra: str = "") -> None:
        """All keys of all shops count, and `extra`."""
        write_trust(self.trust, *self.signers, extra=extra)

    def away(self, shop: Shop) -> None:
        """All replicas are gone."""
        for number in range(len(shop.urls)):
            shutil.rmtree(shop.store(number))

    async def borrow(
        self,
        shop: Shop,
        lenders: PeerSources | None = None,
        told: Progress | None = None,
        replicas: Replicas | None = None,
    ) -> Held:
        """What a process of `n2` loads."""
        peers = (lenders or self.lenders()).asking()
        try:
            pull = Pull(shop.cache, replicas or shop.replicas(), self.read_trust(), now, peers)
            return await pull.obtain(shop.digest, told)
        finally:
            await peers.aclose()

    def read_trust(self) -> Trust:
        return Trust.load(self.trust)


@contextmanager
def lending(path: Path, regions: Mapping[str, str]) -> Iterator[Lending]:
    """Nodes of these regions, without any tree yet."""
    with cluster_of({node: {"Actor Classes": CLASSES} for node in regions}) as nodes:
        yield Lending(path, nodes, regions)


async def refused(work: Any) -> TetherError:
    """The error that `work` ends with."""
    try:
        await work
    except TetherError as error:
        return error
    raise AssertionError("it was not refused")
