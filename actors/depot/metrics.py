"""Metrics of the artifacts that other nodes borrow. Children are bound where they are used, never
per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter

artifact_lent = Counter(
    "tether_artifact_lent_total",
    "What other nodes asked this one for: lent, absent, refused, busy, stalled, broken_off",
    ["result"],
)
artifact_lent_bytes = Counter("tether_artifact_lent_bytes_total", "Bytes of artifacts lent")
artifact_lent_wait = Counter(
    "tether_artifact_lent_wait_seconds_total",
    "Seconds that lending has waited for artifacts.peer_bandwidth",
)
