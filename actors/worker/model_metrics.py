"""The figures of a worker's models: how many are in which state, and what they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from actors.worker import metrics
from actors.worker.model_cache import ModelCache
from supervision.telemetry import bounds

RATE_S: Final = 10.0


class ModelMetrics:
    """The gauges of a pool."""

    def __init__(self, budget: int) -> None:
        self._states = {
            state: metrics.warm_models.labels(state)
            for state in ("warm", "loading", "loadable", "failing")
        }
        self._said = bounds.used.labels("worker_loadable")
        self._held = metrics.warm_bytes.labels("held")
        metrics.warm_bytes.labels("budget").set(budget)

    def publish(self, warm: ModelCache, tokens_per_s: float, now: float) -> None:
        """As it is now."""
        for state, count in (
            ("warm", len(warm.warm)),
            ("loading", len(warm.loading)),
            ("loadable", len(warm.loadable(now))),
            ("failing", len(warm.faults)),
        ):
            self._states[state].set(count)
        self._said.set(len(warm.loadable(now)))
        self._held.set(warm.held)
        metrics.worker_tokens_rate.set(tokens_per_s)


class TokenRate:
    """Output tokens per second over the last seconds, of engines that come and go."""

    def __init__(self, over_s: float = RATE_S) -> None:
        self._over_s = over_s
        self._seen: dict[str, int] = {}
        self._said: deque[tuple[float, int]] = deque()
        self._since: float | None = None

    def see(self, totals: Mapping[str, int], now: float) -> None:
        """What each model has put out since its engine began; about once a second."""
        if self._since is None:
            self._since = now
        fresh = 0
        for ref, total in totals.items():
            before = self._seen.get(ref, 0)
            fresh += total - before if total >= before else total
        self._seen = dict(totals)
        if fresh:
            self._said.append((now, fresh))
        while self._said and now - self._said[0][0] >= self._over_s:
            self._said.popleft()

    def per_s(self, now: float) -> float:
        """Tokens per second."""
        if self._since is None:
            return 0.0
        span = min(self._over_s, max(1.0, now - self._since))
        return sum(count for at, count in self._said if now - at < self._over_s) / span
