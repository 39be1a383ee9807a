"""The actor that sees to workers which may run at any node of the region that has what they need.

One runs at every leader. That of the node which leads the convention has the `workers` supervisor
start what is missing, and the others stop theirs: so they outlive the loss of the node that they
run on, and that of the node that placed them.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import msgspec

from actors.runtime import Address
from supervision import ChildSpec, Supervised
from tether.contracts import AddChild, ConventionShown, ShowConvention, TerminateChild
from tether.errors import TetherError
from tether.telemetry import logs

WORKERS: Final = "workers"
ASK_S: Final = 5.0
LOOK_S: Final = 1.0
STOP_S: Final = 60.0
MAX_PAUSE_S: Final = 15.0

log = logs.get(__name__)


class PlacerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`workers` are the children to be placed: temporary ones, for this actor starts them again."""

    node: str
    admin_port: int
    workers: tuple[ChildSpec, ...]


class Placer(Supervised):
    """Holds nothing: who leads, it asks the Admin, and what runs, the tree says."""

    Options: ClassVar[type[msgspec.Struct]] = PlacerOptions

    async def start(self, options: PlacerOptions) -> None:
        self._options = options
        self._admin = Address.admin(options.node, options.admin_port)
        await self.tree.first()
        self.background(self._look_on(), name="place")

    async def _look_on(self) -> None:
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
        for spec in self._options.workers:
            there = self.tree.node(f"{WORKERS}/{spec.id}") is not None
            if leads and not there:
                failed |= not await self._add(supervisor, spec)
            elif there and not leads:
                log.info("another node leads, and places this", worker=spec.id, leader=shown.leader)
                await self.ask(supervisor, TerminateChild(id=spec.id), timeout=STOP_S)
        return failed

    async def _add(self, supervisor: Address, spec: ChildSpec) -> bool:
        add = AddChild(spec=msgspec.msgpack.encode(spec))
        try:
            await self.ask(supervisor, add, timeout=spec.start_timeout_s + ASK_S)
        except TetherError as error:
            log.warning("a worker has no place", worker=spec.id, error=error.message)
            return False
        node = self.tree.address(f"{WORKERS}/{spec.id}")
        log.info("placed a worker", worker=spec.id, node=node.node if node is not None else "")
        return True
