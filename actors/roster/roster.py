"""The actor that listens to workers and other nodes, and tells who asks which of them are alive."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import ClassVar, Final

import msgspec

from actors.contracts import (
    Announce,
    Announced,
    Catalog,
    ClusterShown,
    Command,
    Commanded,
    ControlPlane,
    Fleet,
    HealthReport,
    Revocations,
    ShowCluster,
    WatchCatalog,
    WatchControlPlane,
    WatchFleet,
)
from actors.core.node_roles import CONTROL, Role
from actors.roster import metrics
from actors.roster.claim_refusals import ClaimRefusals
from actors.roster.cluster_members import WORKERS, ClusterMembers
from actors.roster.cluster_view import control_plane, shown
from actors.roster.fleet_snapshot import FleetSnapshot as Snapshot
from actors.roster.options import OtherNode, RosterOptions
from actors.roster.roster_view import RosterView
from supervision.child import Supervised
from supervision.errors import Unavailable
from supervision.follower import Follower
from supervision.nodes import actor_of_node
from supervision.runtime import Address, on
from supervision.security.audience import NODE, OPERATOR, OWN
from supervision.security.identity import Identity
from supervision.telemetry import bounds, logs
from supervision.telemetry.line_budget import LineBudget

ROSTER: Final = "control/roster"
REGISTRY: Final = "control/registry"
FIND_S: Final = 5.0
SWEEP_S: Final = 0.5
MAX_WAIT_S: Final = 60.0
MAX_UNKNOWN: Final = 64
LOG_S: Final = 60.0  # between two lines about reports of other senders, of one node
LOG_LINES: Final = 16

log = logs.get(__name__)


class Roster(Supervised):
    """Takes `HealthReport`s of the workers of its node, streams `Fleet`s. Needs nobody. A worker
    whose connection breaks is gone at once; one that is only silent goes by `expiry_s`. In a
    cluster it exchanges announcements with the rosters of the other nodes, and its fleet is that
    of all."""

    Options: ClassVar[type[msgspec.Struct]] = RosterOptions

    async def start(self, options: RosterOptions) -> None:
        self._options = options
        self._snapshot = Snapshot(options.expiry_s, options.suspect_s, options.max_workers)
        self._view = RosterView(options.node_id, (other.id for other in options.others))
        self._claims = ClaimRefusals(self.loop, options.node_id)
        self._view.own(self._snapshot.fleet)
        self._news = asyncio.Event()
        self._watched: set[tuple[str, int]] = set()
        self._refused = bounds.refused.labels("roster_reports")
        self._lines = LineBudget(LOG_S, LOG_LINES)
        self._told: Fleet | None = None
        self._plane = ControlPlane()
        self._plane_news = asyncio.Event()
        self._unknown: OrderedDict[Address, HealthReport] = OrderedDict()
        """Reports from other nodes, of workers that may be ours."""
        self._others: ClusterMembers | None = None
        if options.others:
            self._others = ClusterMembers(
                self,
                options,
                self.identity(),
                own=lambda: self._snapshot.fleet,
                view=self._view,
                find=self.find,
                changed=self._changed,
            )
            self._others.start()
            self.tree.on_change(self._tree_changed)
            if CONTROL in options.roles:
                catalog = Follower(self, REGISTRY, WatchCatalog(), self._offered)
                self.background(catalog.run(), name="catalog")
        self.background(self._sweep(), name="sweep")

    async def stop(self, deadline_s: float) -> None:
        if self._others is not None:
            await self._others.leave()

    # ---- what a test may replace

    def identity(self) -> Identity:
        """Of this node, as its processes use it.

        Raises:
            Unavailable: it has none.
        """
        border = self._hub.border
        if border is None:
            raise Unavailable(
                "a node among others needs a certificate; write node.identity_dir, see `tether ca`"
            )
        return border.identity

    async def find(self, other: OtherNode) -> Address:
        """The roster of another node.

        Raises:
            TetherError: it can't be found.
        """
        return await actor_of_node(self, other.id, other.admin_port, ROSTER, timeout=FIND_S)

    # ---- this node

    @on(HealthReport, of=Role.WORKER)
    def report(self, msg: HealthReport, sender: Address) -> None:
        """A worker speaks for itself: a report that comes from elsewhere is dropped, and so is that
        of a process of another node which isn't supervised here."""
        if msg.address != str(sender):
            unsaid = self._lines.take(sender.node, self.loop.time())
            if unsaid is not None:
                log.warning(
                    "a report of another sender",
                    worker_id=msg.worker_id[:64], sender=str(sender), unsaid=unsaid,
                )  # fmt: skip
            return
        if sender.node != self.address.node and not self._is_ours(msg, sender):
            return
        self._take(msg, sender)

    def _is_ours(self, msg: HealthReport, sender: Address) -> bool:
        """A worker at another node is one of ours if our tree says so, which it may say a moment
        after the worker, and the one that the tree says it is. Whoever supervises it speaks for
        it."""
        if self._is_placed(msg):
            return True
        self._unknown[sender] = msg
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.popitem(last=False)
        return False

    def _is_placed(self, msg: HealthReport) -> bool:
        found = self.tree.address(f"{WORKERS}/{msg.worker_id}")
        return found is not None and str(found) == msg.address

    def _tree_changed(self) -> None:
        for sender, msg in list(self._unknown.items()):
            if self._is_placed(msg):
                del self._unknown[sender]
                self._take(msg, sender)

    def _take(self, msg: HealthReport, sender: Address) -> None:
        others = self._others
        if msg.node_id != self._options.node_id and others is not None:
            msg = msgspec.structs.replace(msg, node_id=self._options.node_id)
        refused = self._snapshot.refused
        if self._snapshot.observe(msg, self.loop.time()):
            self._own_changed()
        if self._snapshot.refused != refused:
            self._refused.inc()
            return
        start = (msg.worker_id, msg.epoch)
        if start not in self._watched:
            self._watched.add(start)
            self.watch(sender, lambda: self._lost(start))
            if others is not None:
                others.orders.seen(msg)

    @on(WatchFleet, of=OPERATOR)
    async def fleet(self, msg: WatchFleet, sender: Address) -> AsyncIterator[Fleet]:
        """The newest snapshot, whenever there is a newer one."""
        version = -1
        while True:
            fleet = self._view.fleet
            if fleet.version != version:
                version = fleet.version
                yield fleet
            else:
                await self._news.wait()

    @on(WatchControlPlane, of=OWN)
    async def control(self, msg: WatchControlPlane, sender: Address) -> AsyncIterator[ControlPlane]:
        """Where reservations, registries and gateways are at other nodes, whenever that changes."""
        told: ControlPlane | None = None
        while True:
            news, plane = self._plane_news, self._plane
            if plane is not told:
                told = plane
                yield plane
            else:
                await news.wait()

    def _lost(self, start: tuple[str, int]) -> None:
        self._watched.discard(start)
        if self._snapshot.lost(*start):
            log.info("worker lost", worker_id=start[0])
            self._own_changed()

    def _own_changed(self) -> None:
        fleet = self._snapshot.fleet
        self._view.own(fleet)
        self._changed()
        if self._others is not None:
            self._others.own_changed(fleet)

    def _offered(self, catalog: Catalog) -> None:
        """What the names of models stand for, whatever other nodes' workers say."""
        if self._view.offered(catalog.models):
            self._changed()

    def _changed(self) -> None:
        fleet = self._view.fleet
        self._claims.see(self._view.claims, self.loop.time())
        if fleet is not self._told:
            self._told = fleet
            news, self._news = self._news, asyncio.Event()
            news.set()
            metrics.fleet_workers.set(len(fleet.workers))
        if self._others is not None:
            plane = control_plane(self._options, self._others)
            if plane != self._plane:
                self._plane = plane
                told, self._plane_news = self._plane_news, asyncio.Event()
                told.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self.loop.time()
            if self._snapshot.expire(now):
                self._own_changed()
            if self._others is not None:
                self._others.look(now)

    # ---- other nodes

    @on(Announce, of=NODE)
    def announced(self, msg: Announce, sender: Address) -> Announced:
        """
        Raises:
            Unavailable: this node isn't one of several, or has no identity yet.
        """
        return self._cluster().announced(msg, sender)

    @on(Revocations, of=NODE)
    def revocations(self, msg: Revocations, sender: Address) -> None:
        """Is newer than ours, if the authority has signed it."""
        self._cluster().revocations.adopt(msg, sender)

    @on(Command, of=OWN)
    async def command(self, msg: Command, sender: Address) -> Commanded:
        """
        Raises:
            Forbidden: this node has not the role for it.
            BadRequest: there is no such order.
            Overloaded: too many were given.
            Unavailable: this node isn't one of several.
        """
        others = self._cluster()
        others.may_order(msg.target)
        nodes = frozenset(o.id for o in self._options.others if msg.region in ("", o.region))
        number = others.publisher.next_number
        others.orders.give(msg, self.loop.time())
        others.say_soon()
        have = await others.publisher.delivered(number, nodes, min(msg.within_s, MAX_WAIT_S))
        own = {self._options.node_id} if msg.region in ("", self._options.region) else set()
        return Commanded(reached=tuple(sorted(have | own)), missing=tuple(sorted(nodes - have)))

    @on(ShowCluster, of=OPERATOR)
    def cluster(self, msg: ShowCluster, sender: Address) -> ClusterShown:
        """All nodes as this one sees them."""
        return shown(self._options, self._snapshot.fleet, self._others, self.loop.time())

    def _cluster(self) -> ClusterMembers:
        if self._others is None:
            raise Unavailable("this node is not one of several; list them in [[nodes]]")
        return self._others
