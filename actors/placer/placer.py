"""The actor that sees to workers which may run at any node of the region that has what they need.

One runs at every node that may lead. That of the node which leads the convention has its `workers`
supervisor start what no node has; who has placed a worker keeps it, so that a new leader, or an old
one that comes back, loads no model anew. Where two have one, after a partition, the leader's stays.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import msgspec

from actors.contracts import Fleet, WatchFleet
from actors.placer.absence import Absence
from actors.placer.holders import holders
from supervision.child import Supervised
from supervision.contracts import AddChild, ConventionShown, ShowConvention, TerminateChild
from supervision.errors import TetherError
from supervision.follower import Follower
from supervision.runtime import Address
from supervision.spec import ChildSpec
from supervision.telemetry import logs

WORKERS: Final = "workers"
ROSTER: Final = "control/roster"
ASK_S: Final = 5.0
LOOK_S: Final = 1.0
STOP_S: Final = 60.0
MAX_PAUSE_S: Final = 15.0

log = logs.get(__name__)


class PlacerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`workers` are the children to be placed: temporary ones, for this actor starts them again.
    `leaders` are the nodes that may lead the region: nobody else's word for a placed worker counts.
    `settle_s` is how long a leader that has just come hears the others before it places, and
    `known_s` how long it waits for one that it has seen."""

    node: str
    admin_port: int
    workers: tuple[ChildSpec, ...]
    leaders: tuple[str, ...] = ()
    settle_s: float = 6.0
    known_s: float = 3.0


class Placer(Supervised):
    """Holds nothing that matters: who leads it asks the Admin, what runs the tree and the fleet
    say."""

    Options: ClassVar[type[msgspec.Struct]] = PlacerOptions

    async def start(self, options: PlacerOptions) -> None:
        self._options = options
        self._admin = Address.admin(options.node, options.admin_port)
        self._missing = Absence(options.settle_s, options.known_s)
        self._fleet = Fleet(version=0, workers=())
        self._follower = Follower(self, ROSTER, WatchFleet(), self._see)
        self.background(self._follower.run(), name="fleet")
        self.background(self._look_on(), name="place")

    def _see(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def _look_on(self) -> None:
        await self._follower.first.wait()
        pause_s = LOOK_S
        while True:
            failed = False
            try:
                failed = await self._look()
            except TetherError as error:
                log.info("can't place now", error=error.message)
                failed = True
            pause_s = min(MAX_PAUSE_S, pause_s * 2) if failed else LOOK_S
            await asyncio.sleep(pause_s)

    async def _look(self) -> bool:
        """Bring what runs into line with who leads; whether something could not be placed."""
        shown: ConventionShown = await self.ask(self._admin, ShowConvention(), timeout=ASK_S)
        leads = shown.leader == self._options.node
        supervisor = self.tree.address(WORKERS)
        if supervisor is None:
            return False
        failed = False
        rivals = frozenset(self._options.leaders) - {self._options.node}
        for spec in self._options.workers:
            mine = self.tree.node(f"{WORKERS}/{spec.id}") is not None
            others = holders(self._fleet, spec.id, rivals)
            due = self._missing.look(spec.id, bool(mine or others), leads, self.loop.time())
            if due:
                failed |= not await self._add(supervisor, spec)
            elif mine and not leads and others.get(shown.leader):
                log.info("the leader has this worker too", worker=spec.id, leader=shown.leader)
                await self.ask(supervisor, TerminateChild(id=spec.id), timeout=STOP_S)
        return failed

    async def _add(self, supervisor: Address, spec: ChildSpec) -> bool:
        add = AddChild(spec=msgspec.msgpack.encode(spec))
        try:
            await self.ask(supervisor, add, timeout=spec.start_timeout_s + ASK_S)
        except TetherError as error:
            log.warning("a worker has no place", worker=spec.id, error=error.message)
            return False
        found = self.tree.address(f"{WORKERS}/{spec.id}")
        log.info("placed a worker", worker=spec.id, node=found.node if found is not None else "")
        return True
