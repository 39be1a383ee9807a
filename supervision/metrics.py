"""Metrics of the tree. Bind children where they are used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Histogram

supervision_events = Counter(
    "tether_supervision_events_total", "Events of the tree, by their name", ["event"]
)
child_restarts = Counter("tether_child_restarts_total", "Restarts of a child", ["path"])
child_excused = Counter(
    "tether_child_excused_total",
    "Restarts that count towards no intensity, by what the child was ended by: disk_full",
    ["path", "excuse"],
)
child_exits = Counter(
    "tether_child_exits_total", "Processes of a child that ended, by why", ["path", "reason"]
)
child_kills = Counter("tether_child_kills_total", "SIGKILLs that a supervisor sent", ["path"])
child_start_seconds = Histogram(
    "tether_child_start_seconds",
    "From the spawn of a child's process until it was ready",
    buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300),
)
