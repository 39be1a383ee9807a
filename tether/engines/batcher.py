"""Many answers in one batch, joining and leaving at every step.

The core of the transformers engine: no thread, no loop, no clock. Its owner calls `step`
until `busy` is false and passes on what came out. The order of a step: drop who is cancelled
or done and close the holes, admit under the token budget, one forward pass for prompts and
running answers together, draw a token for each, say what came out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tether.contracts import Finish, Sampling
from tether.engines.engine import Delta, Job
from tether.engines.sampling import draw
from tether.engines.span import Span
from tether.engines.text import TextState
from tether.errors import Internal, TetherError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Slots(Protocol):
    """Keys and values of many answers, each in a slot; `SlotCache` is one."""

    @property
    def memory_bytes(self) -> int:
        """What is held now."""

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` answers of `length` tokens."""

    def move(self, source: int, target: int, length: int) -> None:
        """The answer in `source`, of `length` tokens, is in `target` from now on."""

    def free(self, slot: int) -> None:
        """The answer in `slot` is gone."""

    def clear(self, slot: int) -> None:
        """Forget a slot that a fault has left in an unknown state."""

    def release(self) -> None:
        """No answer runs; give back what can be."""


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


class Row:
    """One answer: all its tokens so far, and how many of them its slot has taken in."""

    __slots__ = (
        "cancelled",
        "done",
        "emitted",
        "fed",
        "given",
        "sampling",
        "slot",
        "text",
        "tokens",
    )

    def __init__(self, job: Job, table: Sequence[bytes]) -> None:
        self.sampling: Sampling = job.sampling
        self.tokens: list[int] = [*job.prompt_ids, *job.emitted_ids]
        self.given = len(self.tokens)
        self.emitted = len(job.emitted_ids)
        self.text = TextState(table, job.sampling.stop)
        self.fed = 0
        self.slot = -1
        self.cancelled = False
        self.done = False

    @property
    def gone(self) -> bool:
        """Its slot is free for others."""
        return self.cancelled or self.done

    def replay(self, emitted: Sequence[int], ends: frozenset[int]) -> Finish | None:
        """Bring the text to where `emitted` left it; how the answer ended if it had."""
        for token in emitted:
            if token in ends or self.text.push(token)[1]:
                return Finish.STOP
        return Finish.LENGTH if self.emitted >= self.sampling.max_tokens else None

    def accept(self, token: int, ends: frozenset[int]) -> Delta:
        """The next token of the answer."""
        self.tokens.append(token)
        self.emitted += 1
        finish: Finish | None = None
        if token in ends:
            text, finish = self.text.flush(), Finish.STOP
        else:
            text, stopped = self.text.push(token)
            if stopped:
                finish = Finish.STOP
            elif self.emitted >= self.sampling.max_tokens:
                text, finish = text + self.text.flush(), Finish.LENGTH
        self.done = finish is not None
        return Delta((token,), text, finish)


@dataclass(slots=True)
class Step:
    """What came out of a step: what each row said or how it failed, and the rows that were
    cancelled before and hold nothing any more."""

    said: list[tuple[Row, Delta | TetherError]] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)


class Batcher:
    """See the module. `slots` bounds the batch; the owner bounds how many it adds."""

    def __init__(self, model: Forward, *, slots: int, prefill_tokens: int) -> None:
        self._model = model
        self._cache = model.cache
        self._slots = slots
        self._budget = prefill_tokens
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []  # row i is in slot i
        self._filling: Row | None = None  # its prompt is half taken in; in the slot after those
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
            if row.fed == len(row.tokens):
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
                self._cache.free(row.slot)
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
                self._cache.free(self._filling.slot)
                if not self._filling.done:
                    step.dropped.append(self._filling)
                self._filling = None
            elif self._filling.slot != len(rows):
                self._move(self._filling, len(rows))

    def _move(self, row: Row, slot: int) -> None:
        self._cache.move(row.slot, slot, row.fed)
        row.slot = slot

    def _admit(self) -> list[tuple[Row, int]]:
        """The rows whose prompts are taken in now, and how much of each."""
        budget = self._budget
        admitted: list[tuple[Row, int]] = []
        if self._filling is not None:
            row = self._filling
            count = min(budget, len(row.tokens) - row.fed)
            admitted.append((row, count))
            budget -= count
        while budget and self._waiting and len(self._rows) + len(admitted) < self._slots:
            row = self._waiting.popleft()
            row.slot = len(self._rows) + len(admitted)
            count = min(budget, len(row.tokens))
            admitted.append((row, count))
            budget -= count
        return admitted

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
            best = int(logits.argmax())
            # argmax gives a nan precedence, so this one look covers all
            if not np.isfinite(float(logits[best])):
                raise FloatingPointError("the model's output is not a number")
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

    def _fail(self, row: Row, error: Exception, step: Step) -> None:
        row.done = True
        self._cache.clear(row.slot)
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        step.said.append((row, Internal(f"the engine could not compute this answer ({cause})")))
