"""The metrics of an engine that runs in another process, shown by its worker: they go when the
worker goes, and no process has files of its own that somebody would have to tidy up."""

from __future__ import annotations

from actors.engines import metrics
from actors.engines.engine import Reuse
from actors.engines.host_wire import Pulse


class ReuseShown:
    """What an engine did not compute again, of one model."""

    def __init__(self, ref: str) -> None:
        self._tokens = metrics.engine_tokens.labels(ref, "reused")
        self._hits = metrics.engine_prefix_prompts.labels(ref, "hit")
        self._misses = metrics.engine_prefix_prompts.labels(ref, "miss")
        self._evicted = metrics.engine_prefix_evicted.labels(ref)
        self._held = metrics.engine_prefix_bytes.labels(ref)
        self._before = Reuse()

    def show(self, now: Reuse) -> None:
        """So it is now."""
        before, self._before = self._before, now
        if now != before:
            self._tokens.inc(max(0, now.tokens - before.tokens))
            self._hits.inc(max(0, now.hits - before.hits))
            self._misses.inc(max(0, now.misses - before.misses))
            self._evicted.inc(max(0, now.evicted - before.evicted))
            self._held.set(now.held_bytes)

    def clear(self) -> None:
        """There is no engine any more."""
        self._held.set(0)


class Mirror:
    """Of one model's engine."""

    def __init__(self, ref: str) -> None:
        self._step_seconds = metrics.engine_step_seconds.labels(ref)
        self._prompt = metrics.engine_tokens.labels(ref, "prompt")
        self._output = metrics.engine_tokens.labels(ref, "output")
        self._running = metrics.engine_rows.labels(ref, "running")
        self._queued = metrics.engine_rows.labels(ref, "queued")
        self._cache = metrics.engine_cache_bytes.labels(ref)
        self._reuse = ReuseShown(ref)
        self._before = Pulse()

    def show(self, now: Pulse) -> None:
        """The engine says how it is."""
        before, self._before = self._before, now
        self._prompt.inc(max(0, now.prompt_tokens - before.prompt_tokens))
        self._output.inc(max(0, now.output_tokens - before.output_tokens))
        self._running.set(now.running)
        self._queued.set(now.queued)
        self._cache.set(now.memory_bytes)
        self._reuse.show(now.reuse)
        for seconds in now.step_s:
            self._step_seconds.observe(seconds)

    def clear(self) -> None:
        """There is no engine any more."""
        self._running.set(0)
        self._queued.set(0)
        self._cache.set(0)
        self._reuse.clear()
