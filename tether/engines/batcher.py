"""Many answers in one batch, joining and leaving at every step.

The core of the transformers engine: no thread, no loop, no clock. Its owner calls `step`
until `busy` is false and passes on what came out. The order of a step: drop who is cancelled
or done and close the holes, admit under the token budget, one forward pass for prompts and
running answers together, draw a token for each, say what came out.

A prompt that begins as another answer of its scope does, one that runs or a finished one that the
slots have kept, takes over what was computed of that; only the rest is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tether.engines.engine import Delta, Reuse
from tether.engines.prefix import common
from tether.engines.row import Row
from tether.engines.sampling import draw
from tether.engines.slots import Slots
from tether.engines.span import Span
from tether.errors import Internal, TetherError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Forward(Protocol):
    """What the batcher needs of a model; `SlotModel` and `LlamaModel` are two."""

    @property
    def cache(self) -> Slots: ...

    @property
    def context(self) -> int: ...

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a turn."""

    def forward(
        self, ids: Sequence[int], decode: Sequence[Span], prefill: Sequence[Span]
    ) -> NDArray[np.float32]:
        """The logits after the last token of every span, (spans, vocabulary). `decode` spans
        have one token and the slots 0, 1, …; May be repeated after a fault."""


@dataclass(slots=True)
class Step:
    """What came out of a step: what each row said or how it failed, and the rows that were
    cancelled before and hold nothing any more."""

    said: list[tuple[Row, Delta | TetherError]] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)


class Batcher:
    """See the module. `slots` bounds the batch; the owner bounds how many it adds. Finished answers
    are kept in `prefix_bytes`; with 0, every prompt is computed as a whole."""

    def __init__(
        self, model: Forward, *, slots: int, prefill_tokens: int, prefix_bytes: int = 0
    ) -> None:
        self._model = model
        self._cache = model.cache
        self._prefix_bytes = prefix_bytes
        self._reuses = model.cache.allow(prefix_bytes) and prefix_bytes > 0
        self._slots = slots
        self._budget = prefill_tokens
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []  # row i is in slot i
        self._filling: Row | None = None  # its prompt is half taken in; in the slot after those
        self._lent = self._hits = self._misses = 0
        self.steps = 0
        self.prompt_tokens = 0
        self.output_tokens = 0

    @property
    def running(self) -> int:
        """Answers that hold a slot."""
        return len(self._rows) + (self._filling is not None)

    @property
    def queued(self) -> int:
        """Answers that wait for one."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """There is something to do."""
        return bool(self._rows or self._waiting or self._filling)

    @property
    def memory_bytes(self) -> int:
        """What the slots hold."""
        return self._cache.memory_bytes

    @property
    def reuse(self) -> Reuse:
        """What did not have to be computed, see there."""
        cache = self._cache
        return Reuse(
            tokens=self._lent,
            hits=self._hits,
            misses=self._misses,
            held_bytes=cache.kept_bytes,
            evicted=cache.evicted,
        )

    def add(self, row: Row) -> None:
        """Let `row` join at the next step."""
        self._waiting.append(row)

    def cancel(self, row: Row) -> None:
        """Let `row` leave at the next step; nothing happens if it is done. Not during a step."""
        row.cancelled = True

    def step(self) -> Step:
        """One step, see the module. Never raises for the fault of a row."""
        step = Step()
        self._drop(step)
        decode = [Span(row.slot, row.fed, 1) for row in self._rows]
        filling = self._admit()
        prefill = [Span(row.slot, row.fed, count) for row, count in filling]
        if not decode and not prefill:
            if not self.busy:
                self._cache.release()
            return step
        rows = self._rows + [row for row, _ in filling]
        spans = decode + prefill
        self.steps += 1
        self._cache.reserve(len(spans), max(span.start + span.count for span in spans))
        for row, span, logits in self._compute(rows, decode, prefill, step):
            row.fed += span.count
            self.prompt_tokens += max(0, min(row.fed, row.given) - span.start)
            if row.fed < len(row.tokens):
                self._check(row, logits, step)
                continue
            if row.fed == row.given > self._cache.worth:
                self._hits += row.lent > 0
                self._misses += not row.lent
            self._draw(row, logits, step)
        # those whose prompt is all in run from now on; the one that isn't comes last
        self._rows = [row for row in rows if row.done or row.fed >= len(row.tokens) - 1]
        half = [row for row in rows if not row.done and row.fed < len(row.tokens) - 1]
        self._filling = half[0] if half else None
        return step

    def _drop(self, step: Step) -> None:
        if any(row.cancelled for row in self._waiting):
            step.dropped.extend(row for row in self._waiting if row.cancelled)
            self._waiting = deque(row for row in self._waiting if not row.cancelled)
        step.dropped.extend(row for row in self._rows if row.cancelled and not row.done)
        rows = self._rows
        for row in rows:
            if row.gone:
                self._leave(row)
        at = 0
        while at < len(rows):
            if not rows[at].gone:
                at += 1
                continue
            last = rows.pop()
            if at < len(rows):
                if not last.gone:
                    self._move(last, at)
                rows[at] = last
        if self._filling is not None:
            if self._filling.gone:
                self._leave(self._filling)
                if not self._filling.done:
                    step.dropped.append(self._filling)
                self._filling = None
            elif self._filling.slot != len(rows):
                self._move(self._filling, len(rows))

    def _move(self, row: Row, slot: int) -> None:
        self._cache.move(row.slot, slot, row.fed)
        row.slot = slot

    def _leave(self, row: Row) -> None:
        """Also what a cancelled answer has taken in is kept: who stops one asks again."""
        if self._reuses and not row.failed and row.fed >= self._cache.worth:
            try:
                self._cache.keep(row.slot, row.scope, tuple(row.tokens[: row.fed]))
            except (MemoryError, RuntimeError):  # torch says the latter when there is no memory
                self._cache.allow(self._prefix_bytes)  # so give back all that is kept
        self._cache.free(row.slot)

    def _admit(self) -> list[tuple[Row, int]]:
        """The rows whose prompts are taken in now, and how much of each."""
        budget = self._budget
        admitted: list[tuple[Row, int]] = []
        while budget and len(self._rows) + len(admitted) < self._slots:
            if self._filling is not None and not admitted:
                row = self._filling
            elif self._waiting:
                row = self._waiting.popleft()
                row.slot = len(self._rows) + len(admitted)
            else:
                break
            if self._reuses:
                self._borrow(row, admitted)
            count = min(budget, len(row.tokens) - row.fed)
            admitted.append((row, count))
            budget -= count
        return admitted

    def _borrow(self, row: Row, admitted: list[tuple[Row, int]]) -> None:
        """Copy more of its beginning than it has. One whose prompt is half taken in looks again:
        who runs beside it may have got further by now."""
        cache = self._cache
        wanted = tuple(row.tokens[:-1])  # the last one is computed: the next depends on its logits
        least = row.fed + cache.worth
        source, length = -1, least - 1
        others = [other for other, _ in admitted]
        if self._filling not in (None, row):
            others.append(self._filling)
        for other in (*self._rows, *others):
            if (
                other.fed > length < len(wanted)
                and other.scope == row.scope
                and other.tokens[length] == wanted[length]
            ):
                found = common(tuple(other.tokens[: other.fed]), wanted)
                if found > length:
                    source, length = other.slot, found
        kept = cache.kept(row.scope, wanted)
        if kept >= max(length, least):
            source, length = -1, kept
        elif source < 0:
            return
        # for those who wait too, as it would grow for them in a moment
        slots = min(self._slots, row.slot + 1 + len(self._waiting))
        cache.reserve(slots, min(len(row.tokens), length + self._budget))
        try:
            if source < 0:
                cache.recall(row.slot, row.scope, wanted[:length])
            else:
                cache.copy(source, row.slot, length)
        except (MemoryError, RuntimeError):
            cache.allow(self._prefix_bytes)
            row.fed = 0  # whatever its slot holds now
            return
        self._lent += length - row.fed
        self.prompt_tokens += length - row.fed
        row.lent += length - row.fed
        row.fed = length

    def _compute(
        self, rows: list[Row], decode: list[Span], prefill: list[Span], step: Step
    ) -> list[tuple[Row, Span, NDArray[np.float32]]]:
        """Logits of every row; a row that cannot be computed fails alone."""
        spans = decode + prefill
        fed = [row.tokens[s.start : s.start + s.count] for row, s in zip(rows, spans, strict=True)]
        try:
            logits = self._model.forward([t for part in fed for t in part], decode, prefill)
            return list(zip(rows, spans, logits, strict=True))
        except Exception as error:
            if len(rows) == 1:
                self._fail(rows[0], error, step)
                return []
        # Someone's tokens broke the pass. It changed nothing that isn't written again, so
        # each row is tried by itself.
        computed = []
        for row, span, part in zip(rows, spans, fed, strict=True):
            try:
                alone = ([span], ()) if span.count == 1 else ((), [span])
                computed.append((row, span, self._model.forward(part, *alone)[0]))
            except Exception as error:
                self._fail(row, error, step)
        return computed

    def _draw(self, row: Row, logits: NDArray[np.float32], step: Step) -> None:
        try:
            best = _best(logits)
            sampling = row.sampling
            token = (
                best
                if sampling.temperature == 0.0
                else draw(
                    logits,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=sampling.seed or 0,
                    position=row.emitted,
                )
            )
            delta = row.accept(token, self._model.ends)
        except Exception as error:
            self._fail(row, error, step)
            return
        self.output_tokens += 1
        step.said.append((row, delta))

    def _check(self, row: Row, logits: NDArray[np.float32], step: Step) -> None:
        """Nobody may borrow what are no numbers."""
        try:
            _best(logits)
        except FloatingPointError as error:
            self._fail(row, error, step)

    def _fail(self, row: Row, error: Exception, step: Step) -> None:
        row.done = row.failed = True
        self._cache.clear(row.slot)
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        step.said.append((row, Internal(f"the engine could not compute this answer ({cause})")))


def _best(logits: NDArray[np.float32]) -> int:
    best = int(logits.argmax())
    # argmax gives a nan precedence, so this one look covers all
    if not np.isfinite(float(logits[best])):
        raise FloatingPointError("the model's output is not a number")
    return best
