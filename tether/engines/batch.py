"""What runs answers together: `Batcher`, which is ours, or a library's own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tether.engines.batcher import Step
from tether.engines.engine import Reuse
from tether.engines.row import Row


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

    def add(self, row: Row) -> None:
        """Let `row` join at the next step."""

    def cancel(self, row: Row) -> None:
        """Let `row` leave at the next step; nothing happens if it is done. Not during a step."""

    def step(self) -> Step:
        """Tokens for who runs. Never raises for the fault of a row."""


@runtime_checkable
class OwnBatch(Batch, Protocol):
    """A library's, which knows its model."""

    ends: frozenset[int]
