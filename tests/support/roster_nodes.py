"""Rosters of several nodes on one loop, each on a TLS hub with a certificate of its own, and
workers that are no more than their reports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from actors.contracts import ClusterShown, HealthReport, ShowCluster
from actors.contracts.operating import Drain
from actors.core.node_roles import ROLES
from actors.roster import OtherNode, Roster, RosterOptions
from supervision.contracts import ChildKind, ChildStatus, Contract, TreeNode
from supervision.contracts.operating import Standing
from supervision.errors import Unavailable
from supervision.runtime import Address
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import Dispatch, reply
from supervision.runtime.handlers import handlers_of
from supervision.runtime.introspection import Introspection
from supervision.runtime.peer import Peer
from supervision.runtime.wire import ASK
from tests.support.tls_hubs import HOST, Cluster, cluster
from tests.support.waiting import PATIENCE_S

NODES = ("n1", "n2", "n3")


class StillTree:
    """A tree that stays as it is written."""

    def __init__(self) -> None:
        self.lines: dict[str, TreeNode] = {}
        self.callbacks: list[Callable[[], object]] = []

    def put(self, path: str, address: str = "", state: str = "running") -> None:
        self.lines[path] = TreeNode(
            path=path, kind=ChildKind.WORKER, state=ChildStatus(state), address=address
        )

    async def first(self, timeout: float) -> None:
        """It is there."""

    async def wait(self, path: str, timeout: float) -> Address:
        if path not in self.lines:
            await asyncio.sleep(timeout)
            raise Unavailable(f"{path} isn't there")
        return Address.parse(self.lines[path].address)

    def node(self, path: str) -> TreeNode | None:
        return self.lines.get(path)

    def address(self, path: str) -> Address | None:
        found = self.lines.get(path)
        return Address.parse(found.address) if found is not None else None

    def under(self, prefix: str) -> list[TreeNode]:
        return [n for n in self.lines.values() if n.path.startswith(prefix + "/")]

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: None

    def changed(self) -> None:
        for callback in self.callbacks:
            callback()


async def embodied(
    actor: Any, hub: Connections, options: Any, tree: StillTree | None = None
) -> None:
    """Starts an actor on a hub of ours, without Thespian."""
    actor._hub = hub
    actor.loop = hub.loop
    actor.address = hub.address
    actor._who = f"{type(actor).__name__} {hub.address}"
    actor._background = set()
    actor._child_view = tree or StillTree()
    serving = actor._serving = Dispatch(hub, handlers_of(actor), 256, actor._who)
    actor._operating = Introspection(actor, hub, serving, 256)
    await actor.start(options)
    serving.begin()


class HubRoster(Roster):
    """The actor, which finds others where `where` says."""

    where: dict[str, Address]

    @classmethod
    async def on(
        cls,
        hub: Connections,
        where: dict[str, Address],
        options: RosterOptions,
        tree: StillTree | None = None,
    ) -> HubRoster:
        made = cls()
        made.where = where
        await embodied(made, hub, options, tree)
        where[hub.address.node] = hub.address
        made._child_view.put("control/roster", str(hub.address))  # type: ignore[union-attr]
        return made

    async def find(self, other: OtherNode) -> Address:
        if other.id not in self.where:
            raise Unavailable(f"{other.id} isn't there")
        return self.where[other.id]

    @property
    def still_tree(self) -> StillTree:
        assert isinstance(self._child_view, StillTree)
        return self._child_view

    @property
    def others(self) -> Any:
        """Its part of the cluster."""
        assert self._others is not None
        return self._others

    def health(self, node: str) -> str:
        return str(self.others.members.health(node))

    @property
    def ids(self) -> list[str]:
        """The fleet, by worker."""
        return sorted(worker.worker_id for worker in self._view.fleet.workers)

    def mute(self) -> None:
        """Says nothing any more, and stays reachable."""
        for task in list(self._background):
            if "announce" in task.get_name():
                task.cancel()

    def quit(self) -> None:
        for task in list(self._background):
            task.cancel()
        self._hub.close()


class Fake:
    """A worker's process: it has a hub, and remembers what it is told."""

    def __init__(self, hub: Connections, roster: HubRoster, **fields: Any) -> None:
        self.hub = hub
        self.roster = roster
        self.told: list[Contract] = []
        self.report = HealthReport(
            **{
                "worker_id": f"w.{hub.address.node}",
                "node_id": hub.address.node,
                "address": str(hub.address),
                "region": "eu",
                "slots": 4,
                "running": 0,
                "queued": 0,
                "models": ("echo@1",),
                "epoch": 1,
                "sequence": 0,
            }
            | fields
        )
        hub.on_request = self._asked

    def say(self, **changes: Any) -> None:
        """Report to the roster of its node."""
        self.report = msgspec.structs.replace(
            self.report, sequence=self.report.sequence + 1, **changes
        )
        self.hub.tell(self.roster.address, self.report)

    def _asked(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        from supervision.runtime.codec import decode

        self.told.append(decode(payload))
        if kind == ASK:
            reply(peer, number, Standing(state="draining"))

    @property
    def drained(self) -> list[bool]:
        return [msg.on for msg in self.told if isinstance(msg, Drain)]


class Rosters:
    """`roster("n2")` is that of node n2."""

    def __init__(self, cluster: Cluster, nodes: tuple[str, ...], changes: dict[str, Any]) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.changes = changes
        self.roles: dict[str, tuple[str, ...]] = {}
        self.where: dict[str, Address] = {}
        self.made: list[HubRoster] = []

    def kept(self, node: str) -> Path:
        """Where that node keeps the newest list of revoked certificates."""
        return self.cluster.folder / f"revoked-{node}"

    def options(self, node: str, **changes: Any) -> RosterOptions:
        others = tuple(
            OtherNode(
                id=other, admin_port=1, region="eu", host=HOST, roles=self.roles.get(other, ROLES)
            )
            for other in self.nodes
            if other != node
        )
        values: dict[str, Any] = {
            "node_id": node,
            "region": "eu",
            "host": HOST,
            "others": others,
            "state_dir": str(self.cluster.folder / f"state-{node}"),
            "roles": self.roles.get(node, ROLES),
            "capabilities": {"gpu_class": "none", "vram_gb": 0},
        }
        return RosterOptions(**(values | self.changes | changes))

    async def roster(
        self,
        node: str,
        identity: Path | None = None,
        tree: StillTree | None = None,
        certified: tuple[str, ...] = ROLES,
        **changes: Any,
    ) -> HubRoster:
        where: dict[str, Any] = {"roles": certified}
        if identity is not None:
            where |= {"identity_dir": identity, "to": identity}
        hub = await self.cluster.hub(node, kept=self.kept(node), **where)
        made = await HubRoster.on(hub, self.where, self.options(node, **changes), tree)
        self.made.append(made)
        return made

    async def worker(self, roster: HubRoster, **fields: Any) -> Fake:
        fake = Fake(await self.cluster.hub(roster.address.node), roster, **fields)
        fake.say()
        return fake

    async def shown(self, roster: HubRoster) -> ClusterShown:
        shown = await self.made[0]._hub.ask(roster.address, ShowCluster(), PATIENCE_S)
        assert isinstance(shown, ClusterShown)
        return shown


@contextlib.asynccontextmanager
async def rosters(
    folder: Path, nodes: tuple[str, ...] = NODES, **changes: Any
) -> AsyncIterator[Rosters]:
    async with cluster(folder) as hubs:
        made = Rosters(hubs, nodes, changes)
        try:
            yield made
        finally:
            for roster in made.made:
                roster.quit()
            await asyncio.sleep(0)
