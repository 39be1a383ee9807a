"""Metrics of closed jobs, by who closed them. Children are bound where they are used, never per
request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter

settles = Counter("tether_settles_total", "Jobs closed, by who closed them and how", ["by", "how"])
spooled = Counter(
    "tether_spool_settles_total",
    "Settles that went through the spool of the node, by what became of them",
    ["how"],
)
renewals = Counter(
    "tether_renewals_total", "Jobs in hand, by who has said so and what came of it", ["by", "how"]
)
