"""Metrics of the engines: what the model itself does. Children are bound where they are used, never
per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge, Histogram

engine_tokens = Counter(
    "tether_engine_tokens_total",
    "Tokens taken in (prompt), those of them that were not computed again (reused), and put out "
    "(output)",
    ["model", "kind"],
)
engine_rows = Gauge(
    "tether_engine_rows",
    "Answers in the batch (running) and before it (queued)",
    ["model", "state"],
    multiprocess_mode="livesum",
)
engine_cache_bytes = Gauge(
    "tether_engine_cache_bytes",
    "Bytes of keys and values held",
    ["model"],
    multiprocess_mode="livesum",
)
engine_prefix_bytes = Gauge(
    "tether_engine_prefix_bytes",
    "Bytes of keys and values kept of finished answers, at most prefix_mib of the worker",
    ["model"],
    multiprocess_mode="livesum",
)
engine_prefix_prompts = Counter(
    "tether_engine_prefix_prompts_total",
    "Prompts of which a beginning had been computed before (hit) or had not (miss)",
    ["model", "outcome"],
)
engine_prefix_evicted = Counter(
    "tether_engine_prefix_evicted_tokens_total",
    "Tokens of finished answers that were given up because the bound was reached",
    ["model"],
)
engine_step_seconds = Histogram(
    "tether_engine_step_seconds",
    "Duration of one step of the batch",
    ["model"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
