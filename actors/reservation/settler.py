"""The settler: asks reservation to settle until it has answered, or the settle is on the disk."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from actors.contracts import Settle
from actors.core.control_lookup import ControlLookup
from actors.reservation import metrics
from actors.reservation.settle_replay import RESERVATION, SettleReplay, is_refused, refuse
from actors.reservation.settle_spool import SettleSpool, SpoolOptions
from supervision.child import Supervised
from supervision.errors import BadRequest, DiskFull, TetherError
from supervision.policies import Deadline, DeadlineOptions, Retry, RetryOptions, Stack
from supervision.policies.actor_driver import ActorDriver
from supervision.telemetry import logs
from supervision.telemetry.bounded_log import BoundedLog

__all__ = ["RESERVATION", "Settler", "worth"]

log = logs.get(__name__)
heard = BoundedLog(__name__)  # of what others can cause

PATIENCE_S = 1.0  # without an answer: then it is spooled
LAPSE_S: Final = 60.0  # for what nothing is billed of: then its lease closes the job
RETRY = RetryOptions(attempts=0, initial_s=0.02, max_s=1.0, heeds=False)


class Settler:
    """Asks reservation to settle. A `Settle` is idempotent, and all reservations of a cluster have
    one database, so it may be asked any number of times, and of whichever: `where` says who they
    are, and without it there is the one of the own node.

    After `PATIENCE_S` without an answer the settle goes into the spool of the node, if there is
    one, and is replayed from there. Where there is none, or its disk is full, it is kept in memory
    and asked on and on: a bill is never given up. What nothing is billed of is, after `LAPSE_S`,
    for the sweep of leases closes such a job as well. Whoever awaits `settle` bounds how many do at
    once, and begins nothing new while `check` says no.
    """

    def __init__(
        self,
        actor: Supervised,
        by: str,
        where: ControlLookup | None = None,
        spool: SpoolOptions | None = None,
    ) -> None:
        self._actor = actor
        self._where = where or ControlLookup(actor)
        self._stack = Stack(
            Deadline(DeadlineOptions(total_s=PATIENCE_S)),
            Retry(RETRY, random.random, budget=None),
        )
        self.away = False
        """Did nobody answer when a settle was asked for last?"""
        self._unanswered: dict[int, tuple[Settle, str]] = {}
        self._in_memory = 0
        self._spool: SettleSpool | None = None
        folder = None if spool is None else spool.where
        if spool is not None and folder is not None:
            self._spool = SettleSpool(folder, spool.bytes, self._news)
            self._replay = SettleReplay(actor, self._where, self._spool, self.heard)
            actor.background(self._replay.run(), name="spool")
            actor.background(self._replay.adopt(), name="adopt spools")
        self._settled = metrics.settles.labels(by, "settled")
        self._kept = metrics.settles.labels(by, "spooled")
        self._late = metrics.settles.labels(by, "refused")
        self._lost = metrics.settles.labels(by, "given_up")

    def _news(self) -> None:
        self._replay.news.set()

    def heard(self, answered: bool) -> None:
        """Whether a reservation has just answered to anybody here."""
        if self.away is answered:
            self.away = not answered
            if answered:
                log.info("a reservation answers")
            else:
                log.warning("no reservation answers; settles are spooled", after_s=PATIENCE_S)

    def check(self, running: int = 0) -> None:
        """May anything begin that will have to be settled, beside `running` others?

        Raises:
            Overloaded, DiskFull: the spool is full, or can't be written.
        """
        if self._spool is not None:
            self._spool.check(self._actor.loop.time(), running)

    async def ahead(self, settle: Settle, near: str = "") -> bool:
        """Before an answer's last chunk is handed out: True if its settle is on the disk, and
        needs no other. So only while reservation doesn't answer; else it is settled afterwards."""
        return self.away and await self._put(settle, near)

    async def settle(self, settle: Settle, near: str = "") -> bool:
        """True when a reservation has answered, or it is in the spool. Asked is that of the own
        node if there is one, else that of the node `near`, which has made the job, else any other.
        Who fails is asked last."""
        key = id(settle)
        self._unanswered[key] = settle, near
        try:
            if not (self.away and self._spool is not None):
                answered = await self._ask(settle, near)
                if answered is not None:
                    return answered
            return await self._keep(settle, near)
        finally:
            self._unanswered.pop(key, None)

    async def close(self) -> None:
        """The process ends: whatever has no answer yet goes into the spool."""
        if self._spool is None:
            return
        waiting = [entry for entry in self._unanswered.values() if worth(entry[0])]
        put = [self._spool.put(settle, near) for settle, near in waiting]
        for done in await asyncio.gather(*put, return_exceptions=True):
            if isinstance(done, BaseException):
                log.error("a settle is lost", error=str(done))
        await self._spool.close()

    # ---- how

    async def _ask(self, settle: Settle, near: str) -> bool | None:
        """Whether it was taken; None if nobody has answered within `PATIENCE_S`."""
        actor, where = self._actor, self._where
        address = where.address(RESERVATION, near=near)
        began = actor.loop.time()
        if address is not None:
            try:
                await actor.ask(address, settle, timeout=PATIENCE_S)
            except TetherError as error:
                if is_refused(error):
                    return await self._refused(settle, error)
                where.failed(address)
                if actor.loop.time() - began >= PATIENCE_S:
                    return self._nobody()
                await asyncio.sleep(RETRY.pause_s(1, random.random()))
            else:
                self._settled.inc()
                self.away = False
                return True
        return await self._again(settle, near)

    async def _again(self, settle: Settle, near: str) -> bool | None:
        find = self._where.finder(RESERVATION, near)
        driver = ActorDriver(self._actor, self._stack, find, ask_s=PATIENCE_S, persists=True)
        try:
            await driver.ask(settle)
        except BadRequest as error:
            if is_refused(error):
                return await self._refused(settle, error)
            return self._nobody()
        except TetherError:
            return self._nobody()
        self._settled.inc()
        self.away = False
        return True

    def _nobody(self) -> bool | None:
        self.heard(False)
        return None

    async def _keep(self, settle: Settle, near: str) -> bool:
        """Into the spool; where that can't be, asked until it is answered or can."""
        until = self._actor.loop.time() + LAPSE_S
        tries = 0
        self._in_memory += 1
        try:
            while True:
                if await self._put(settle, near):
                    return True
                if not worth(settle) and self._actor.loop.time() >= until:
                    self._lost.inc()
                    heard.error("a settle was given up", settle.job_id, job_id=settle.job_id)
                    return False
                answered = await self._ask(settle, near)
                if answered is not None:
                    return answered
                tries += 1
                await asyncio.sleep(RETRY.pause_s(tries, random.random()))
        finally:
            self._in_memory -= 1
            if not self._in_memory and self._spool is not None:
                self._spool.relieved()

    async def _put(self, settle: Settle, near: str) -> bool:
        if self._spool is None:
            return False
        try:
            await self._spool.put(settle, near)
        except DiskFull:
            return False
        self._kept.inc()
        return True

    async def _refused(self, settle: Settle, error: TetherError) -> bool:
        self._late.inc()
        heard.warning(
            "a settle was refused", settle.job_id, job_id=settle.job_id, error=error.message
        )
        if self._spool is not None and worth(settle):
            await refuse(self._spool.folder, settle, error.message)
        return False


def worth(settle: Settle) -> bool:
    """Is anything billed by it?"""
    usage = settle.usage
    return usage.prompt_tokens > 0 or usage.completion_tokens > 0
