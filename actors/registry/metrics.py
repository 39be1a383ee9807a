"""Metrics of the catalog's changes. Children are bound where they are used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter

model_changes = Counter(
    "tether_model_changes_total",
    "Changes of the catalog made here: registered, changed, promoted, rolled_back, retired",
    ["what"],
)
