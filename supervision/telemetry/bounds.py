"""Metrics of bounds: how full whatever can fill up is, and what it turned away. Children are bound
where they are used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge

used = Gauge(
    "tether_bound_used",
    "Entries held in something bounded",
    ["bound"],
    multiprocess_mode="livesum",
)
refused = Counter(
    "tether_bound_refused_total", "Entries turned away because a bound was reached", ["bound"]
)
