"""The nine things that happen in a tree, as frozen values; telemetry handles them elsewhere.

| event | measures | metadata |
|---|---|---|
| child.started | took_s | path, generation, pid, restarts |
| child.exited | ran_s | path, generation, pid, reason, error |
| child.restarting | delay_s | path, attempt, restarts, excuse |
| child.gave_up | restarts, period_s | path, error |
| child.killed | after_s | path, generation, pid, why |
| tree.stopping | children | path, why |
| tree.stopped | took_s | path |
| tree.escalated | none | path, causes |
| tree.changed | none | node |

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from supervision.contracts import ExitReason, TreeNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all. `path` is the child's, or the supervisor's own for tree events."""

    name: ClassVar[str]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(Event):
    """A child is ready, `took_s` seconds after its process was asked for."""

    name: ClassVar[str] = "child.started"
    generation: int
    pid: int
    restarts: int
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildExited(Event):
    """The process of a child is gone; it was ready for `ran_s` seconds (0: it never was)."""

    name: ClassVar[str] = "child.exited"
    generation: int
    pid: int
    reason: ExitReason
    error: str
    ran_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRestarting(Event):
    """A child will be started again in `delay_s`; this is failure `attempt` in a row, of those that
    have an `excuse` (an `Excuse`), or of the others."""

    name: ClassVar[str] = "child.restarting"
    attempt: int
    restarts: int
    delay_s: float
    excuse: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildGaveUp(Event):
    """A child would have to be restarted once more than the intensity allows."""

    name: ClassVar[str] = "child.gave_up"
    restarts: int
    period_s: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildKilled(Event):
    """A child was sent SIGKILL, `after_s` seconds after it was told to start or stop."""

    name: ClassVar[str] = "child.killed"
    generation: int
    pid: int
    why: str
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStopping(Event):
    """A supervisor begins to stop its `children`, the last one first."""

    name: ClassVar[str] = "tree.stopping"
    children: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStopped(Event):
    """None of a supervisor's children runs any more."""

    name: ClassVar[str] = "tree.stopped"
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEscalated(Event):
    """A supervisor has given up and says why to its own; `causes` begins with the latest."""

    name: ClassVar[str] = "tree.escalated"
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeChanged(Event):
    """One line of the tree reads otherwise now; state `deleted` means that it is gone."""

    name: ClassVar[str] = "tree.changed"
    node: TreeNode
