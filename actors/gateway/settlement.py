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
from actors.reservation.settler import Settler
from supervision.child import Supervised
from supervision.errors import Overloaded
from supervision.telemetry import bounds, logs

log = logs.get(__name__)

AT_ONCE = 128
SECOND_S = 2.0  # after a worker should have settled a cancelled run


class Settlement:
    """The settles of a gateway. Settling what is settled changes nothing, so in doubt it does.

    Args:
        bound: answers, and cancelled runs, that are remembered.
        keep_s: how long an answer is.
        answered: the journal of a session that is held in full. Those of answers that are to be
            kept are taken from there when they are needed, so that nothing is held twice.
        packing: makes bytes of them.
    """

    def __init__(
        self,
        actor: Supervised,
        bound: int,
        keep_s: float,
        answered: Callable[[SessionKey], Journal | None],
        packing: AnswerPacking,
    ) -> None:
        self._actor = actor
        self._answered = answered
        self._packing = packing
        self._settler = Settler(actor, "gateway")
        self._unsettled = UnsettledAnswers(bound, keep_s)
        self._second: deque[tuple[float, Unsettled]] = deque(maxlen=bound)
        self._used = bounds.used.labels("gateway_completions")

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
            log.info("settles for a worker that is gone", worker=worker_address, jobs=len(taken))
            self._begin(taken)

    def sweep(self, now: float) -> None:
        """Now and then."""
        self._unsettled.sweep(now)
        self._used.set(len(self._unsettled) + len(self._second))
        due: list[Unsettled] = []
        while self._second and self._second[0][0] <= now:
            due.append(self._second.popleft()[1])
        if due:
            self._begin(due)

    def _begin(self, settles: list[Unsettled]) -> None:
        try:
            self._actor.background(self._settle(settles), name="settle")
        except Overloaded:
            log.warning("no room to settle; leases will run out", jobs=len(settles))

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
