"""Settlement by the gateway: closes a job where its worker can't or may not have."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from actors.contracts import Outcome, Settle
from actors.core.answer_packing import AnswerPacking
from actors.core.journal import Journal
from actors.gateway.session import SessionKey
from actors.gateway.session_settlement import Settles
from actors.gateway.unsettled import Unsettled, UnsettledAnswers
from actors.reservation.settle_spool import SpoolOptions
from actors.reservation.settler import Settler
from supervision.child import Supervised
from supervision.errors import Overloaded
from supervision.telemetry import bounds, logs
from supervision.telemetry.bounded_log import BoundedLog

log = logs.get(__name__)
heard = BoundedLog(__name__)

AT_ONCE = 128
SECOND_S = 2.0  # after a worker should have settled a cancelled run


class Settlement:
    """The settles of a gateway. Settling what is settled changes nothing, so in doubt it does.

    Args:
        bound: answers, and cancelled runs, that are remembered.
        keep_s: how long an answer is.
        spool: of the node.
        answered: the journal of a session that is held in full. Those of answers that are to be
            kept are taken from there when they are needed, so that nothing is held twice.
        packing: makes bytes of them.
    """

    def __init__(
        self,
        actor: Supervised,
        bound: int,
        keep_s: float,
        spool: SpoolOptions | None = None,
        *,
        answered: Callable[[SessionKey], Journal | None],
        packing: AnswerPacking,
    ) -> None:
        self._actor = actor
        self._answered = answered
        self._packing = packing
        self._settler = Settler(actor, "gateway", spool=spool)
        self._waiting: list[Unsettled] = []
        self._unsettled = UnsettledAnswers(bound, keep_s)
        self._second: deque[tuple[float, Unsettled]] = deque(maxlen=bound)
        self._used = bounds.used.labels("gateway_completions")

    def check(self, running: int) -> None:
        """May another session begin beside so many?

        Raises:
            Overloaded, DiskFull: too much is to be settled already.
        """
        if self._waiting:
            raise Overloaded("too many answers wait to be settled", retry_after_s=1.0)
        self._settler.check(running)

    def heard(self, answered: bool) -> None:
        """Whether a reservation has just answered."""
        self._settler.heard(answered)

    async def stop(self) -> None:
        """What has not been taken by now goes into the spool."""
        await self._settler.close()

    def close(
        self,
        settle: Settle,
        by: Settles,
        worker_address: str,
        now: float,
        key: SessionKey | None = None,
    ) -> None:
        """A session has ended; `by` is who closes its job in the first place, and `key` its own if
        its answer is to be kept."""
        unsettled = Unsettled(settle, key if settle.outcome is Outcome.COMPLETED else None)
        if by is Settles.WORKER:
            self._unsettled.add(worker_address, unsettled, now)
        elif by is Settles.WORKER_OR_LATER:
            self._second.append((now + SECOND_S, unsettled))
        elif by is Settles.GATEWAY:
            self._begin([unsettled])

    def worker_lost(self, worker_address: str) -> None:
        """What came from there lately may not be settled."""
        taken = self._unsettled.take(worker_address)
        if taken:
            heard.info(
                "settles for a worker that is gone",
                worker_address.partition("/")[0],
                worker=worker_address,
                jobs=len(taken),
            )
            self._begin(taken)

    def sweep(self, now: float) -> None:
        """Now and then."""
        self._unsettled.sweep(now)
        self._used.set(len(self._unsettled) + len(self._second))
        due: list[Unsettled] = []
        while self._second and self._second[0][0] <= now:
            due.append(self._second.popleft()[1])
        waiting, self._waiting = self._waiting, []
        if due or waiting:
            self._begin([*waiting, *due])

    def _begin(self, settles: list[Unsettled]) -> None:
        try:
            self._actor.background(self._settle(settles), name="settle")
        except Overloaded:
            self._waiting += settles  # and nothing new begins before the sweep has begun them

    async def _settle(self, settles: list[Unsettled]) -> None:
        for first in range(0, len(settles), AT_ONCE):
            await asyncio.gather(*map(self._close, settles[first : first + AT_ONCE]))

    async def _close(self, unsettled: Unsettled) -> None:
        settle, key = unsettled
        journal = None if key is None else self._answered(key)
        if journal is None:
            await self._settler.settle(settle)
            return
        async with self._packing.of(journal) as answer:
            await self._settler.settle(msgspec.structs.replace(settle, answer=answer))
