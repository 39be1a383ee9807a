"""The condition of this node: its hardware, its scheduler's breakers, whether its Admin leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from actors.contracts import BreakerSeen, BreakerStates, Hardware, ShowBreakers
from actors.roster.hardware import Machine
from actors.roster.options import RosterOptions
from supervision.child import Supervised
from supervision.contracts import ConventionShown, ShowConvention
from supervision.errors import TetherError
from supervision.policies import Mode, State
from supervision.runtime import Address

SCHEDULER: Final = "control/scheduler"
ASK_S: Final = 2.0
MAX_BREAKERS: Final = 64


class Condition:
    """Looked at before each regular announcement; `changed` is called when others should hear of
    it sooner."""

    def __init__(
        self, actor: Supervised, options: RosterOptions, changed: Callable[[], object]
    ) -> None:
        self._actor = actor
        self._options = options
        self._changed = changed
        self.hardware = Hardware()
        self.breakers: tuple[BreakerSeen, ...] = ()
        self.leads = False

    async def run(self) -> None:
        """Until cancelled; meant for `background`."""
        machine = Machine()
        while True:
            self.hardware = await asyncio.to_thread(machine.look)
            before = (self.leads, self.breakers)
            with suppress(TetherError):
                await self._ask_admin()
            with suppress(TetherError):
                await self._ask_scheduler()
            if (self.leads, self.breakers) != before:
                self._changed()
            await asyncio.sleep(self._options.announce_s)

    async def _ask_admin(self) -> None:
        options = self._options
        if options.admin_port:
            admin = Address.admin(options.node_id, options.admin_port)
            shown: ConventionShown = await self._actor.ask(admin, ShowConvention(), ASK_S)
            self.leads = shown.leader == options.node_id

    async def _ask_scheduler(self) -> None:
        scheduler = self._actor.tree.address(SCHEDULER)
        if scheduler is None:
            return
        found: BreakerStates = await self._actor.ask(scheduler, ShowBreakers(), ASK_S)
        seen = []
        for breaker in found.breakers:
            state = breaker.state if breaker.mode == Mode.AUTOMATIC else breaker.mode
            if state != State.CLOSED:
                seen.append(
                    BreakerSeen(
                        worker_id=breaker.worker_id, model_ref=breaker.model_ref, state=state
                    )
                )
        self.breakers = tuple(seen[:MAX_BREAKERS])
