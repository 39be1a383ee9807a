"""Many answers in one batch, joining and leaving at every step.

The core of the transformers engine: no thread, no loop, no clock. Its owner calls `step`
until `busy` is false and passes on what came out. The order of a step: drop who is cancelled
or done and close the holes, admit under the token budget, one forward pass for prompts and
running answers together, draw a token for each, say what came out.

A prompt that begins as another answer of its scope does, one that runs or a finished one that the
slots have kept, takes over what was computed of that; only the rest is computed.
"""

from __future__ import annotations

from collections import abc, deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from actors.engines.batch import BatchStep
from actors.engines.engine import Reuse
from actors.engines.prefix import common
from actors.engines.sampling import draw
from actors.engines.sequence import Sequence
from actors.engines.slots import Slots
from actors.engines.span import Span
from supervision.errors import Internal

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
        self, ids: abc.Sequence[int], decode: abc.Sequence[Span], prefill: abc.Sequence[Span]
    ) -> NDArray[np.float32]:
        """The logits after the last token of every span, (spans, vocabulary). `decode` spans
        have one token and the slots 0, 1, …; May be repeated after a fault."""


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
        self._waiting: deque[Sequence] = deque()
        self._sequences: list[Sequence] = []  # sequence i is in slot i
        # its prompt is half taken in; in the slot after those
        self._filling: Sequence | None = None
        self._lent = self._hits = self._misses = 0
        self.steps = 0
        self.prompt_tokens = 0
        self.output_tokens = 0

    @property
    def running(self) -> int:
        """Answers that hold a slot."""
        return len(self._sequences) + (self._filling is not None)

    @property
    def queued(self) -> int:
        """Answers that wait for one."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """There is something to do."""
        return bool(self._sequences or self._waiting or self._filling)

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

    def add(self, sequence: Sequence) -> None:
        """See `Batch.add`."""
        self._waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """See `Batch.cancel`."""
        sequence.cancelled = True

    def step(self) -> BatchStep:
        """One step, see the module. Never raises for the fault of a sequence."""
        step = BatchStep()
        self._drop(step)
        decode = [Span(sequence.slot, sequence.fed, 1) for sequence in self._sequences]
        filling = self._admit()
        prefill = [Span(sequence.slot, sequence.fed, count) for sequence, count in filling]
        if not decode and not prefill:
            if not self.busy:
                self._cache.release()
            return step
        sequences = self._sequences + [sequence for sequence, _ in filling]
        spans = decode + prefill
        self.steps += 1
        self._cache.reserve(len(spans), max(span.start + span.count for span in spans))
        for sequence, span, logits in self._compute(sequences, decode, prefill, step):
            sequence.fed += span.count
            self.prompt_tokens += max(0, min(sequence.fed, sequence.given) - span.start)
            if sequence.fed < len(sequence.tokens):
                self._check(sequence, logits, step)
                continue
            if sequence.fed == sequence.given > self._cache.worth:
                self._hits += sequence.lent > 0
                self._misses += not sequence.lent
            self._draw(sequence, logits, step)
        # those whose prompt is all in run from now on; the one that isn't comes last
        self._sequences = [s for s in sequences if s.done or s.fed >= len(s.tokens) - 1]
        half = [s for s in sequences if not s.done and s.fed < len(s.tokens) - 1]
        self._filling = half[0] if half else None
        return step

    def _drop(self, step: BatchStep) -> None:
        if any(s.cancelled for s in self._waiting):
            step.dropped.extend(s for s in self._waiting if s.cancelled)
            self._waiting = deque(s for s in self._waiting if not s.cancelled)
        step.dropped.extend(s for s in self._sequences if s.cancelled and not s.done)
        sequences = self._sequences
        for sequence in sequences:
            if sequence.gone:
                self._leave(sequence)
        at = 0
        while at < len(sequences):
            if not sequences[at].gone:
                at += 1
                continue
            last = sequences.pop()
            if at < len(sequences):
                if not last.gone:
                    self._move(last, at)
                sequences[at] = last
        if self._filling is not None:
            if self._filling.gone:
                self._leave(self._filling)
                if not self._filling.done:
                    step.dropped.append(self._filling)
                self._filling = None
            elif self._filling.slot != len(sequences):
                self._move(self._filling, len(sequences))

    def _move(self, sequence: Sequence, slot: int) -> None:
        self._cache.move(sequence.slot, slot, sequence.fed)
        sequence.slot = slot

    def _leave(self, sequence: Sequence) -> None:
        """Also what a cancelled answer has taken in is kept: who stops one asks again."""
        if self._reuses and not sequence.failed and sequence.fed >= self._cache.worth:
            try:
                taken_in = tuple(sequence.tokens[: sequence.fed])
                self._cache.keep(sequence.slot, sequence.scope, taken_in)
            except (MemoryError, RuntimeError):  # torch says the latter when there is no memory
                self._cache.allow(self._prefix_bytes)  # so give back all that is kept
        self._cache.free(sequence.slot)

    def _admit(self) -> list[tuple[Sequence, int]]:
        """The sequences whose prompts are taken in now, and how much of each."""
        budget = self._budget
        admitted: list[tuple[Sequence, int]] = []
        while budget and len(self._sequences) + len(admitted) < self._slots:
            if self._filling is not None and not admitted:
                sequence = self._filling
            elif self._waiting:
                sequence = self._waiting.popleft()
                sequence.slot = len(self._sequences) + len(admitted)
            else:
                break
            if self._reuses:
                self._borrow(sequence, admitted)
            count = min(budget, len(sequence.tokens) - sequence.fed)
            admitted.append((sequence, count))
            budget -= count
        return admitted

    def _borrow(self, sequence: Sequence, admitted: list[tuple[Sequence, int]]) -> None:
        """Copy more of its beginning than it has. One whose prompt is half taken in looks again:
        who runs beside it may have got further by now."""
        cache = self._cache
        # the last one is computed: the next depends on its logits
        wanted = tuple(sequence.tokens[:-1])
        least = sequence.fed + cache.worth
        source, length = -1, least - 1
        others = [other for other, _ in admitted]
        if self._filling not in (None, sequence):
            others.append(self._filling)
        for other in (*self._sequences, *others):
            if (
                other.fed > length < len(wanted)
                and other.scope == sequence.scope
                and other.tokens[length] == wanted[length]
            ):
                found = common(tuple(other.tokens[: other.fed]), wanted)
                if found > length:
                    source, length = other.slot, found
        kept = cache.kept(sequence.scope, wanted)
        if kept >= max(length, least):
            source, length = -1, kept
        elif source < 0:
            return
        # for those who wait too, as it would grow for them in a moment
        slots = min(self._slots, sequence.slot + 1 + len(self._waiting))
        cache.reserve(slots, min(len(sequence.tokens), length + self._budget))
        try:
            if source < 0:
                cache.recall(sequence.slot, sequence.scope, wanted[:length])
            else:
                cache.copy(source, sequence.slot, length)
        except (MemoryError, RuntimeError):
            cache.allow(self._prefix_bytes)
            sequence.fed = 0  # whatever its slot holds now
            return
        self._lent += length - sequence.fed
        self.prompt_tokens += length - sequence.fed
        sequence.lent += length - sequence.fed
        sequence.fed = length

    def _compute(
        self, sequences: list[Sequence], decode: list[Span], prefill: list[Span], step: BatchStep
    ) -> list[tuple[Sequence, Span, NDArray[np.float32]]]:
        """Logits of every sequence; a sequence that cannot be computed fails alone."""
        spans = decode + prefill
        pairs = zip(sequences, spans, strict=True)
        fed = [s.tokens[span.start : span.start + span.count] for s, span in pairs]
        try:
            logits = self._model.forward([t for part in fed for t in part], decode, prefill)
            return list(zip(sequences, spans, logits, strict=True))
        except Exception as error:
            if len(sequences) == 1:
                self._fail(sequences[0], error, step)
                return []
        # Someone's tokens broke the pass. It changed nothing that isn't written again, so
        # each sequence is tried by itself.
        computed = []
        for sequence, span, part in zip(sequences, spans, fed, strict=True):
            try:
                alone = ([span], ()) if span.count == 1 else ((), [span])
                computed.append((sequence, span, self._model.forward(part, *alone)[0]))
            except Exception as error:
                self._fail(sequence, error, step)
        return computed

    def _draw(self, sequence: Sequence, logits: NDArray[np.float32], step: BatchStep) -> None:
        try:
            best = _best(logits)
            sampling = sequence.sampling
            token = (
                best
                if sampling.temperature == 0.0
                else draw(
                    logits,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=sampling.seed or 0,
                    position=sequence.emitted,
                )
            )
            delta = sequence.accept(token, self._model.ends)
        except Exception as error:
            self._fail(sequence, error, step)
            return
        self.output_tokens += 1
        step.said.append((sequence, delta))

    def _check(self, sequence: Sequence, logits: NDArray[np.float32], step: BatchStep) -> None:
        """Nobody may borrow what are no numbers."""
        try:
            _best(logits)
        except FloatingPointError as error:
            self._fail(sequence, error, step)

    def _fail(self, sequence: Sequence, error: Exception, step: BatchStep) -> None:
        sequence.done = sequence.failed = True
        self._cache.clear(sequence.slot)
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        step.said.append(
            (sequence, Internal(f"the engine could not compute this answer ({cause})"))
        )


def _best(logits: NDArray[np.float32]) -> int:
    best = int(logits.argmax())
    # argmax gives a nan precedence, so this one look covers all
    if not np.isfinite(float(logits[best])):
        raise FloatingPointError("the model's output is not a number")
    return best
