"""The bytes that a worker's models may take: who has them, who could give them up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from actors.worker.model_state import ModelPhase, ModelState


class Room:
    """Of `models`, which its owner changes. `budget` is in bytes, 0 for no bound."""

    def __init__(self, budget: int, models: Mapping[str, ModelState]) -> None:
        self._budget = budget
        self._models = models
        self._pins = 0  # bytes of pinned ones

    @property
    def held(self) -> int:
        """Bytes of all that is here, comes or goes."""
        return sum(m.size for m in self._models.values() if m.phase is not ModelPhase.OUT)

    @property
    def coming(self) -> int:
        """Bytes that are about to be free."""
        return sum(m.size for m in self._models.values() if m.phase is ModelPhase.CLOSING)

    def idle(self) -> Iterator[ModelState]:
        """What could go: no run has it and it isn't pinned."""
        return (
            m
            for m in self._models.values()
            if m.phase is ModelPhase.WARM and not m.holds and not m.pinned
        )

    def pin(self, order: Iterable[ModelState]) -> None:
        """Pins hold as far as they fit together, in this order: first those that are here."""
        wished = [m for m in order if m.wish is not None and m.wish.pinned]
        taken = 0
        for m in sorted(wished, key=lambda m: m.phase is ModelPhase.OUT):
            here = m.phase is not ModelPhase.OUT
            m.pinned = here or not self._budget or taken + m.size <= self._budget
            if m.pinned:
                taken += m.size
        self._pins = taken

    def unfit(self, m: ModelState) -> str:
        """Why it will never fit; empty if it may."""
        pins = self._pins - (m.size if m.pinned else 0)
        if not self._budget or max(1, m.size) + pins <= self._budget:
            return ""
        need = f"{m.ref} needs {_mib(m.size)}, this worker's models may take {_mib(self._budget)}"
        return (
            need if m.size > self._budget else f"{need}, and pinned ones have {_mib(pins)} of them"
        )


def enough(models: list[ModelState], short: int) -> list[ModelState] | None:
    """The first of `models` that free `short` bytes together, without those that aren't needed."""
    chosen: list[ModelState] = []
    freed = 0
    for m in models:
        if freed >= short:
            break
        chosen.append(m)
        freed += m.size
    if freed < short:
        return None
    for m in reversed(chosen[:-1]):
        if freed - m.size >= short:
            chosen.remove(m)
            freed -= m.size
    return chosen


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
