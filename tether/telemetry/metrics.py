"""Every metric of Tether, declared once. Bind children where they are used, never per request."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

# ---- bounds: whatever can fill up says how full it is, and what it turned away

bound_used = Gauge(
    "tether_bound_used",
    "Entries held in something bounded",
    ["bound"],
    multiprocess_mode="livesum",
)
bound_refused = Counter(
    "tether_bound_refused_total", "Entries turned away because a bound was reached", ["bound"]
)
