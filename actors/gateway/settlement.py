"""Settlement by the gateway: closes a job where its worker can't or may not have."""

from __future__ import annotations

import asyncio
from collections import deque

from actors.contracts import Settle
from actors.gateway.session_settlement import Settles
from actors.gateway.unsettled import UnsettledAnswers
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
    """

    def __init__(self, actor: Supervised, bound: int, keep_s: float) -> None:
        self._actor = actor
        self._settler = Settler(actor, "gateway")
        self._unsettled = UnsettledAnswers(bound, keep_s)
        self._second: deque[tuple[float, Settle]] = deque(maxlen=bound)
        self._used = bounds.used.labels("gateway_completions")

    def close(self, settle: Settle, by: Settles, worker_address: str, now: float) -> None:
        """A session has ended; `by` is who closes its job in the first place."""
        if by is Settles.WORKER:
            self._unsettled.add(worker_address, settle, now)
        elif by is Settles.WORKER_OR_LATER:
            self._second.append((now + SECOND_S, settle))
        elif by is Settles.GATEWAY:
            self._begin([settle])

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
        due: list[Settle] = []
        while self._second and self._second[0][0] <= now:
            due.append(self._second.popleft()[1])
        if due:
            self._begin(due)

    def _begin(self, settles: list[Settle]) -> None:
        try:
            self._actor.background(self._settle(settles), name="settle")
        except Overloaded:
            log.warning("no room to settle; leases will run out", jobs=len(settles))

    async def _settle(self, settles: list[Settle]) -> None:
        for first in range(0, len(settles), AT_ONCE):
            await asyncio.gather(*map(self._settler.settle, settles[first : first + AT_ONCE]))
