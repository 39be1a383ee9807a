"""The packing of finished answers for the store: bounded, and large ones beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from actors.core.answer_options import AnswerOptions
from actors.core.journal import Journal
from actors.core.kept_answer import MOST_UNFOLDED, pack, unfolded_bytes
from supervision.telemetry import bounds, logs
from supervision.telemetry.metrics import Counter

log = logs.get(__name__)

HELD_BYTES: Final = 32 << 20  # of packed answers whose settles are under way
LARGE: Final = 64 << 10  # bytes; what is smaller is packed within a millisecond

unkept = Counter(
    "tether_answers_unkept_total",
    "Finished answers of requests with an idempotency key that were not kept, by why",
    ["why"],
)


class AnswerPacking:
    """Of one process, `name` in metrics."""

    def __init__(self, options: AnswerOptions, name: str) -> None:
        self._most = options.answer_bytes if options.keep_s else 0
        self._held = 0
        self._used = bounds.used.labels(f"{name}_answer_bytes")
        self._refused = bounds.refused.labels(f"{name}_answer_bytes")
        self._large = unkept.labels("too_large")
        self._crowded = unkept.labels("no_room")
        self._odd = unkept.labels("odd")

    @asynccontextmanager
    async def of(
        self, journal: Journal, before: Iterable[tuple[tuple[int, ...], str]] = ()
    ) -> AsyncIterator[bytes]:
        """The answer of a closed journal, as `pack` writes it, held until it is let go of; empty if
        it isn't to be kept. Then it is billed as any other, and can't be said again later."""
        answer = await self._packed(journal, before)
        self._held += len(answer)
        self._used.set(self._held)
        try:
            yield answer
        finally:
            self._held -= len(answer)
            self._used.set(self._held)

    async def _packed(
        self, journal: Journal, before: Iterable[tuple[tuple[int, ...], str]]
    ) -> bytes:
        if not self._most:
            return b""
        size = unfolded_bytes(journal)
        if size > MOST_UNFOLDED:
            self._large.inc()
            return b""
        if not self._fits(1):
            return b""
        try:
            if size > LARGE:
                answer = await asyncio.to_thread(pack, journal, tuple(before))
            else:
                answer = pack(journal, before)
        except ValueError as error:
            log.error("an answer can't be kept", error=str(error))
            self._odd.inc()
            return b""
        if len(answer) > self._most:
            self._large.inc()
            return b""
        return answer if self._fits(len(answer)) else b""

    def _fits(self, more: int) -> bool:
        if self._held + more <= HELD_BYTES:
            return True
        self._refused.inc()
        self._crowded.inc()
        return False
