"""Log lines and counters of the nine events; nothing else of supervision counts."""

from __future__ import annotations

from dataclasses import asdict

from supervision import metrics
from supervision.contracts import ExitReason
from supervision.events import (
    ChildExited,
    ChildKilled,
    ChildRestarting,
    ChildStarted,
    Event,
    TreeChanged,
)
from supervision.telemetry import logs

log = logs.get(__name__)

_LOUD = frozenset({"child.gave_up", "child.killed", "tree.escalated"})
_EXPECTED = frozenset({ExitReason.NORMAL, ExitReason.SHUTDOWN})


def narrate(event: Event) -> None:
    """Log and count one event."""
    metrics.supervision_events.labels(event.name).inc()
    match event:
        case TreeChanged():
            return  # the root's table tells it
        case ChildRestarting():
            metrics.child_restarts.labels(event.path).inc()
            if event.excuse:
                metrics.child_excused.labels(event.path, event.excuse).inc()
        case ChildExited():
            metrics.child_exits.labels(event.path, str(event.reason)).inc()
        case ChildKilled():
            metrics.child_kills.labels(event.path).inc()
        case ChildStarted():
            metrics.child_start_seconds.observe(event.took_s)
    fields = asdict(event)
    # `path` and `pid` are those of the process that logs
    fields["child"] = fields.pop("path") or "root"
    if "pid" in fields:
        fields["child_pid"] = fields.pop("pid")
    loud = event.name in _LOUD or (isinstance(event, ChildExited) and event.reason not in _EXPECTED)
    (log.warning if loud else log.info)(event.name, **fields)
