"""The health reports of a worker: every few seconds, and at once when it matters."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable

from actors.contracts import HealthReport, ModelCard
from actors.core.model_digest import digest_of

CROWD_S = 1.0  # at most so often because of the number of requests alone


class HealthReporter:
    """Decides when a report is due, and numbers them.

    Args:
        every_s: seconds between reports when nothing changes.
        epoch: grows with every start of the worker.
        send: sends a report; whether there was somebody to send it to.
    """

    def __init__(self, every_s: float, epoch: int, send: Callable[[HealthReport], bool]) -> None:
        self._every_s = every_s
        self._send = send
        self.epoch = epoch
        self._sequence = 0
        self._sent_at = float("-inf")
        self._touched = True
        self._load = (-1, -1)
        self._digests: dict[str, str] = {}

    def loaded(self, card: ModelCard) -> None:
        """This model has answered; its files stay ready whatever becomes of its engine."""
        self._digests[card.ref] = digest_of(card)
        self._touched = True

    def keep(self, refs: Iterable[str]) -> None:
        """No other models are offered any more."""
        kept = frozenset(refs)
        self._digests = {ref: said for ref, said in self._digests.items() if ref in kept}

    @property
    def cached(self) -> tuple[str, ...]:
        """The refs of all models that were loaded."""
        return tuple(self._digests)

    def digests(self, refs: Iterable[str]) -> tuple[str, ...]:
        """One for each ref; empty for one that wasn't loaded."""
        return tuple(self._digests.get(ref, "") for ref in refs)

    def touch(self) -> None:
        """Something changed that others must know."""
        self._touched = True

    def due(self, running: int, queued: int, now: float) -> bool:
        """Is it time for a report?"""
        silent_s = now - self._sent_at
        return (
            self._touched
            or silent_s >= self._every_s
            or (silent_s >= CROWD_S and self._load != (running, queued))
        )

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def send(self, report: HealthReport, now: float) -> None:
        """Send it; when nobody was there, the next one stays due."""
        if self._send(report):
            self._touched = False
            self._sent_at = now
            self._load = (report.running, report.queued)


def memory_bytes() -> int:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
