"""The settler: asks reservation to settle until it has answered, over its restarts."""

from __future__ import annotations

import asyncio
import random

from actors.contracts import Settle
from actors.reservation import metrics
from supervision.child import Supervised
from supervision.errors import BadRequest, TetherError
from supervision.policies import Deadline, DeadlineOptions, Retry, RetryOptions, Stack
from supervision.policies.actor_driver import ActorDriver
from supervision.telemetry import logs

log = logs.get(__name__)

RESERVATION = "control/reservation"
PATIENCE_S = 60.0
ASK_S = 10.0
RETRY = RetryOptions(attempts=0, initial_s=0.02, max_s=1.0, heeds=False)


class Settler:
    """Asks reservation to settle. A `Settle` is idempotent, so it may be asked any number of
    times. After `PATIENCE_S` it is given up: the sweep of expired leases then closes the job.
    Whoever awaits `settle` bounds how many do at once.
    """

    def __init__(self, actor: Supervised, by: str) -> None:
        self._actor = actor
        self._driver = ActorDriver(
            actor,
            Stack(
                Deadline(DeadlineOptions(total_s=PATIENCE_S)),
                Retry(RETRY, random.random, budget=None),
            ),
            lambda within_s: actor.tree.wait(RESERVATION, within_s),
            ask_s=ASK_S,
            persists=True,
        )
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
            except BadRequest as error:
                return self._refused(settle, error)
            except TetherError:
                await asyncio.sleep(RETRY.pause_s(1, random.random()))
            else:
                self._settled.inc()
                return True
        return await self._again(settle)

    async def _again(self, settle: Settle) -> bool:
        try:
            await self._driver.ask(settle)
        except BadRequest as error:
            return self._refused(settle, error)
        except TetherError as error:
            self._lost.inc()
            log.error("a settle was given up", job_id=settle.job_id, error=error.message)
            return False
        self._settled.inc()
        return True

    def _refused(self, settle: Settle, error: TetherError) -> bool:
        self._late.inc()
        log.warning("a settle was refused", job_id=settle.job_id, error=error.message)
        return False
