"""The batch of an engine, as a protocol: `Batcher`, which is ours, or a library's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from actors.engines.engine import Reuse
from actors.engines.generation import Delta
from actors.engines.sequence import Sequence
from supervision.errors import TetherError


@dataclass(slots=True)
class BatchStep:
    """What came out of a step: what each sequence said or how it failed, and those that were
    cancelled before and hold nothing any more."""

    said: list[tuple[Sequence, Delta | TetherError]] = field(default_factory=list)
    dropped: list[Sequence] = field(default_factory=list)


class Batch(Protocol):
    """Driven by one thread: `add` and `cancel` between steps, `step` while it is `busy`. The
    counts may be read by others."""

    steps: int
    prompt_tokens: int
    output_tokens: int

    @property
    def running(self) -> int:
        """Answers that are computed."""

    @property
    def queued(self) -> int:
        """Answers that wait to be."""

    @property
    def busy(self) -> bool:
        """There is something to do."""

    @property
    def memory_bytes(self) -> int:
        """What the answers hold."""

    @property
    def reuse(self) -> Reuse:
        """What did not have to be computed."""

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` join at the next step."""

    def cancel(self, sequence: Sequence) -> None:
        """Let `sequence` leave at the next step, if it isn't done. Not during a step."""

    def step(self) -> BatchStep:
        """Tokens for who runs. Never raises for the fault of a sequence."""


@runtime_checkable
class OwnBatch(Batch, Protocol):
    """A library's, which knows its model."""

    ends: frozenset[int]
