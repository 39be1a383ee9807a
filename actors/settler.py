"""Settling for sure: asked again until reservation has answered, over its restarts."""

from __future__ import annotations

import asyncio
import random

from supervision import Supervised
from tether.contracts import Settle
from tether.errors import BadRequest, TetherError
from tether.telemetry import logs, metrics

log = logs.get(__name__)

RESERVATION = "control/reservation"
PATIENCE_S = 60.0
ASK_S = 10.0


class Settler:
    """Asks reservation to settle. A `Settle` is idempotent, so it may be asked any number of
    times. After `PATIENCE_S` it is given up: the sweep of expired leases then closes the job.
    Whoever awaits `settle` bounds how many do at once.
    """

    def __init__(self, actor: Supervised, by: str) -> None:
        self._actor = actor
        self._settled = metrics.settles.labels(by, "settled")
        self._late = metrics.settles.labels(by, "refused")
        self._lost = metrics.settles.labels(by, "given_up")

    async def settle(self, settle: Settle) -> bool:
        """True when reservation has answered."""
        actor = self._actor
        address = actor.tree.address(RESERVATION)
        if address is not None:
            try:
                await actor.ask(address, settle, timeout=ASK_S)
            except TetherError as error:
                return await self._again(settle, error)
            self._settled.inc()
            return True
        return await self._again(settle, None)

    async def _again(self, settle: Settle, error: TetherError | None) -> bool:
        actor = self._actor
        end = actor.loop.time() + PATIENCE_S
        pause = 0.02
        while True:
            if isinstance(error, BadRequest):
                self._late.inc()
                log.warning("a settle was refused", job_id=settle.job_id, error=error.message)
                return False
            left = end - actor.loop.time()
            if left <= 0:
                self._lost.inc()
                log.error("a settle was given up", job_id=settle.job_id, error=str(error))
                return False
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 1.0)
            try:
                address = await actor.tree.wait(RESERVATION, left)
                await actor.ask(address, settle, timeout=ASK_S)
            except TetherError as problem:
                error = problem
            else:
                self._settled.inc()
                return True
