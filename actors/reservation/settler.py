"""The settler: asks reservation to settle until it has answered, over restarts and lost nodes."""

from __future__ import annotations

import asyncio
import random

from actors.contracts import Settle
from actors.core.control_lookup import ControlLookup
from actors.reservation import metrics
from supervision.child import Supervised
from supervision.errors import BadRequest, TetherError
from supervision.policies import Deadline, DeadlineOptions, Retry, RetryOptions, Stack
from supervision.policies.actor_driver import ActorDriver
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)

RESERVATION = "control/reservation"
PATIENCE_S = 60.0
ASK_S = 10.0
RETRY = RetryOptions(attempts=0, initial_s=0.02, max_s=1.0, heeds=False)


class Settler:
    """Asks reservation to settle. A `Settle` is idempotent, and all reservations of a cluster have
    one database, so it may be asked any number of times, and of whichever: `where` says who they
    are, and without it there is the one of the own node. After `PATIENCE_S` it is given up: the
    sweep of expired leases then closes the job. Whoever awaits `settle` bounds how many do at once.
    """

    def __init__(self, actor: Supervised, by: str, where: ControlLookup | None = None) -> None:
        self._actor = actor
        self._where = where or ControlLookup(actor)
        self._stack = Stack(
            Deadline(DeadlineOptions(total_s=PATIENCE_S)),
            Retry(RETRY, random.random, budget=None),
        )
        self._settled = metrics.settles.labels(by, "settled")
        self._late = metrics.settles.labels(by, "refused")
        self._lost = metrics.settles.labels(by, "given_up")

    async def settle(self, settle: Settle, near: str = "") -> bool:
        """True when a reservation has answered: that of the own node if there is one, else that
        of the node `near`, which has made the job, else any other. Who fails is asked last."""
        actor, where = self._actor, self._where
        address = where.address(RESERVATION, near=near)
        if address is not None:
            try:
                await actor.ask(address, settle, timeout=ASK_S)
            except BadRequest as error:
                return self._refused(settle, error)
            except TetherError:
                where.failed(address)
                await asyncio.sleep(RETRY.pause_s(1, random.random()))
            else:
                self._settled.inc()
                return True
        return await self._again(settle, near)

    async def _again(self, settle: Settle, near: str) -> bool:
        find = self._where.finder(RESERVATION, near)
        driver = ActorDriver(self._actor, self._stack, find, ask_s=ASK_S, persists=True)
        try:
            await driver.ask(settle)
        except BadRequest as error:
            return self._refused(settle, error)
        except TetherError as error:
            self._lost.inc()
            heard.error(
                "a settle was given up", settle.job_id, job_id=settle.job_id, error=error.message
            )
            return False
        self._settled.inc()
        return True

    def _refused(self, settle: Settle, error: TetherError) -> bool:
        self._late.inc()
        heard.warning(
            "a settle was refused", settle.job_id, job_id=settle.job_id, error=error.message
        )
        return False
