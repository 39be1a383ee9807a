"""Announcements that don't count: counted all, logged now and then."""

from __future__ import annotations

from typing import Final

from actors.roster import metrics
from actors.roster.announcement import Refusal
from supervision.telemetry import logs

_EVERY_S: Final = 10.0  # between two lines of the same reason and node
_MAX_KEYS: Final = 1024

log = logs.get(__name__)


class Refusals:
    """By reason in a metric. A stranger fills no disk: of each reason and node, a line in
    `_EVERY_S`, which says how many went unsaid."""

    def __init__(self) -> None:
        self._counters = {
            reason: metrics.announcements_refused.labels(str(reason)) for reason in Refusal
        }
        self._said: dict[tuple[Refusal, str], tuple[float, int]] = {}
        self.counts: dict[Refusal, int] = dict.fromkeys(Refusal, 0)

    def add(self, reason: Refusal, node: str, sentence: str, now: float) -> None:
        """One that `node` has brought."""
        self._counters[reason].inc()
        self.counts[reason] += 1
        key = (reason, node if reason is not Refusal.STRANGER else "")
        at, unsaid = self._said.get(key, (float("-inf"), 0))
        if now - at < _EVERY_S:
            self._said[key] = (at, unsaid + 1)
            return
        if len(self._said) >= _MAX_KEYS:
            self._said.clear()
        self._said[key] = (now, 0)
        log.warning(
            "an announcement was refused",
            reason=str(reason),
            by=node,
            why=sentence,
            unsaid=unsaid,
        )
