"""Metrics of limits that gateways share."""

from __future__ import annotations

from supervision.telemetry import bounds
from supervision.telemetry.metrics import Counter, Gauge

shared = Gauge(
    "tether_limits_shared",
    "Gateways that add up limits in the store; the others hold tenants to their own parts",
    multiprocess_mode="livesum",
)
fallbacks = Counter(
    "tether_limits_fallbacks_total",
    "How often the store of limits was away, by what it did",
    ["why"],
)
rounds = Counter("tether_limits_rounds_total", "Batches of orders sent to the store of limits")
waits = Counter("tether_limits_waits_total", "Requests that had to wait for the store of limits")
waiting = bounds.used.labels("gateway_limit_waits")
shares = bounds.used.labels("gateway_limit_shares")
