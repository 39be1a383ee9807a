"""The answers that wait with their settles for a round, within a bound of bytes. What is beyond it
isn't kept; its bill is written all the same."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from actors.contracts import Outcome, Reserve, Settle
from actors.core.answer_options import AnswerOptions
from actors.core.answer_packing import unkept
from actors.stores import metrics
from supervision.telemetry import bounds

WAITING_BYTES: Final = 64 << 20
ROUND_BYTES: Final = 8 << 20  # in one statement, which may take seconds


def weight(msg: Reserve | Settle) -> int:
    """Bytes of an answer that a message brings."""
    return len(msg.answer) if isinstance(msg, Settle) else 0


class WaitingAnswers:
    """Of one ledger."""

    def __init__(self, options: AnswerOptions) -> None:
        self._most = options.answer_bytes if options.keep_s else 0
        self._waiting = 0
        self._used = bounds.used.labels("reservation_answer_bytes")
        self._refused = bounds.refused.labels("reservation_answer_bytes")
        self._large = unkept.labels("too_large")
        self._crowded = unkept.labels("no_room")
        self._kept = metrics.answers_kept
        self._kept_bytes = metrics.answers_kept_bytes

    def admitted(self, msg: Settle) -> Settle:
        """The settle as it is to be written: with its answer, if that is to be kept."""
        size = len(msg.answer)
        if not size:
            return msg
        if size > self._most or msg.outcome is not Outcome.COMPLETED:
            if self._most and size > self._most:
                self._large.inc()
        elif self._waiting + size > WAITING_BYTES:
            self._refused.inc()
            self._crowded.inc()
        else:
            return msg
        return msgspec.structs.replace(msg, answer=b"")

    def waits(self, msg: Settle, written: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """It has a place among those that wait, until `written` is done; that, to be awaited."""
        size = len(msg.answer)
        if size:
            self._waiting += size
            self._used.set(self._waiting)
            written.add_done_callback(lambda done: self._left(size, done))
        return written

    def _left(self, size: int, done: asyncio.Future[Any]) -> None:
        self._waiting -= size
        self._used.set(self._waiting)
        if not done.cancelled() and done.exception() is None and done.result().first:
            self._kept.inc()
            self._kept_bytes.inc(size)
