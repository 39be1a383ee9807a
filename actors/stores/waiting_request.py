"""A reserve or settle that waits for its answer."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.contracts import JobState, Reserve, Reserved, Settle
from actors.errors import IdempotencyConflict
from actors.stores import metrics
from actors.stores.ledger_options import LedgerOptions
from actors.stores.reserve_answers import Answer
from actors.stores.rounds import Rounds
from actors.stores.waiting_answers import ROUND_BYTES, weight
from supervision.errors import TetherError

_LED = frozenset({JobState.RUNNING, JobState.COMPLETED})  # to another ask's job
_CONTESTS = 8  # how often somebody else may be faster before a reserve gives up


class WaitingRequest:
    """A plain class with slots: one is made for each message."""

    __slots__ = ("contests", "deadline", "future", "job", "msg", "node")

    def __init__(
        self,
        msg: Reserve | Settle,
        job: Any,
        future: asyncio.Future[Any],
        deadline: float,
        node: str,
    ) -> None:
        self.msg = msg
        self.node = node  # the other one that it comes from
        self.job = job
        self.future = future
        self.deadline = deadline
        self.contests = 0

    def wanted(self) -> bool:
        """Does somebody wait for it yet?"""
        return not self.future.done()

    def take(self, answer: Answer) -> bool:
        """Hand on what a reserve came to; False when it must be asked once more."""
        if answer is None:
            self.contests += 1
            if self.contests < _CONTESTS:
                return False
            answer = IdempotencyConflict(
                "others take this retry token or job id again and again; use new ones"
            )
        if isinstance(answer, TetherError):
            self.fail(answer)
            return True
        if isinstance(answer, Reserved) and answer.assignment.state in _LED:
            metrics.reservation_known.inc()
        if not self.future.done():
            self.future.set_result(answer)
        return True

    def fail(self, error: TetherError) -> None:
        """It comes to this."""
        if not self.future.done():
            self.future.set_exception(error)


def rounds_of(options: LedgerOptions, at_once: int) -> Rounds[object, WaitingRequest]:
    """The rounds of a ledger, bounded by what is in one and by the bytes of the answers in it."""
    return Rounds(
        most=options.round_max,
        waiting=options.waiting_max,
        at_once=at_once,
        weigh=lambda request: weight(request.msg),
        heaviest=ROUND_BYTES,
    )
