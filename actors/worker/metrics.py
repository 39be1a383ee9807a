"""Metrics of the models on workers: what is loaded, and what it takes. Children are bound where
they are used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge, Histogram

engine_restarts = Counter(
    "tether_engine_restarts_total", "Engines started anew after their process was lost", ["model"]
)
warm_models = Gauge(
    "tether_warm_models",
    "Models of workers, by state: warm, loading, loadable, failing",
    ["state"],
    multiprocess_mode="livesum",
)
warm_bytes = Gauge(
    "tether_warm_bytes",
    "Bytes that workers' models take (held) and may take (budget; 0 is no limit)",
    ["kind"],
    multiprocess_mode="livesum",
)
warm_loads = Counter(
    "tether_warm_loads_total", "Loads of models, by what came: loaded, failed", ["model", "result"]
)
warm_load_seconds = Histogram(
    "tether_warm_load_seconds",
    "From the begin of a model's load to its first answer",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
warm_evictions = Counter(
    "tether_warm_evictions_total",
    "Models let go, by why: room, retired, changed",
    ["model", "why"],
)
worker_tokens_rate = Gauge(
    "tether_worker_tokens_per_second",
    "Output tokens per second of the workers' engines over the last ten seconds",
    multiprocess_mode="livesum",
)
