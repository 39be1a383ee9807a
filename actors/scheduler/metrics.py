"""Metrics of waiting requests and breakers. Children are bound where they are used, never per
request."""

from __future__ import annotations

from supervision.telemetry.metrics import Gauge, Histogram

queue_wait_seconds = Histogram(
    "tether_queue_wait_seconds",
    "How long requests waited for a worker, those that had to",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60),
)
breaker_state = Gauge(
    "tether_breaker_state",
    "Breaker of a worker's model: 0 closed, 1 half open, 2 open, 3 forced open, 4 disabled",
    ["worker", "model"],
    multiprocess_mode="livemax",
)
