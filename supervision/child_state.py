"""The state of one child, as a tree remembers it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from supervision.contracts import ChildStatus, ExitReason, TreeNode
from supervision.external_cause import ExternalCause
from supervision.spec import ChildSpec, Restart


class ChildPhase(StrEnum):
    """Where a child stands."""

    IDLE = "idle"  # no process; to be started when it is due and its turn has come
    SPAWNED = "spawned"  # its process was asked for, and waits for its turn
    STARTING = "starting"  # told to start
    RUNNING = "running"  # ready
    STOPPING = "stopping"  # told to stop, or killed, or ending after a failed start
    DONE = "done"  # no process, and none wanted


LIVE = frozenset({ChildPhase.SPAWNED, ChildPhase.STARTING, ChildPhase.RUNNING, ChildPhase.STOPPING})
SETTLED = frozenset({ChildPhase.RUNNING, ChildPhase.DONE})

_SHOWN = {
    ChildPhase.IDLE: ChildStatus.STARTING,
    ChildPhase.SPAWNED: ChildStatus.STARTING,
    ChildPhase.STARTING: ChildStatus.STARTING,
    ChildPhase.RUNNING: ChildStatus.RUNNING,
    ChildPhase.STOPPING: ChildStatus.STOPPING,
    ChildPhase.DONE: ChildStatus.STOPPED,
}


@dataclass(slots=True)
class ChildState:
    """One child. `due` is, by phase: when it may be started (idle), when it must be ready
    (starting), when it is killed (stopping); infinite where nothing is due."""

    spec: ChildSpec
    phase: ChildPhase = ChildPhase.IDLE
    generation: int = 0
    pid: int = 0
    address: str = ""
    due: float = -math.inf
    began: float = 0.0  # when this generation was spawned, or told to stop
    ready_at: float | None = None  # when this generation became ready
    since: float = 0.0  # when `shown` became what it is
    restarts: int = 0  # in all
    failures: int = 0  # in a row
    excused: int = 0  # exits in a row that weren't its fault
    ever_ready: bool = False
    condemned: bool = False  # must stop, then start again together with its group
    removed: bool = False  # was told to terminate; stays down
    forgotten: bool = False  # leaves no trace once it is down
    probation: bool = False  # asked for, never ready: a failed start isn't repeated
    trial: bool = False  # restarted because somebody asked: if that fails it stays down
    killed: bool = False
    cause: ExitReason | None = None  # why we end it
    notice: tuple[ExitReason, str] | None = None  # what it said before it ended
    excuse: ExternalCause | None = None  # of what it said, or its supervisor knows
    error: str = ""
    last_exit: str = ""
    strategy: str = ""  # of a supervisor, as it said itself

    @property
    def live(self) -> bool:
        """There is, or may be, a process."""
        return self.phase in LIVE

    @property
    def settled(self) -> bool:
        """Those after it needn't wait for it."""
        return self.phase in SETTLED

    @property
    def shown(self) -> ChildStatus:
        """What the tree shows of it."""
        status = _SHOWN[self.phase]
        again = status is ChildStatus.STARTING and self.restarts
        return ChildStatus.RESTARTING if again else status

    def spawned(self, generation: int, now: float) -> None:
        """A new generation begins."""
        self.phase, self.generation = ChildPhase.SPAWNED, generation
        self.due, self.began, self.ready_at = math.inf, now, None
        self.killed, self.cause, self.notice, self.error = False, None, None, ""
        self.excuse = None

    def gone(self) -> None:
        """Its process doesn't exist any more."""
        self.phase, self.pid, self.address = ChildPhase.IDLE, 0, ""
        self.due, self.condemned = -math.inf, False

    def verdict(self, error: str) -> tuple[ExitReason, str]:
        """Why it ended, from what was asked of it, what it said, and how far it was."""
        if self.cause is ExitReason.START_FAILED:
            return self.cause, self.error or error
        if self.cause is not None:
            return (ExitReason.KILLED if self.killed else self.cause), error
        if self.phase in (ChildPhase.SPAWNED, ChildPhase.STARTING):
            said = self.notice[1] if self.notice else ""
            ended = said or error or "the process ended before it was ready"
            return ExitReason.START_FAILED, ended
        if self.notice is not None:
            return self.notice
        return ExitReason.VANISHED, error or "the process ended without a word"

    def returns(self, reason: ExitReason) -> bool:
        """Whether it has to be started again after `reason`."""
        match self.spec.restart:
            case Restart.PERMANENT:
                return True
            case Restart.TRANSIENT:
                return reason not in (ExitReason.NORMAL, ExitReason.SHUTDOWN)
            case Restart.TEMPORARY:
                return False

    def node(self, parent: str, now: float, *, state: ChildStatus | None = None) -> TreeNode:
        """Its line of the tree."""
        return TreeNode(
            path=join(parent, self.spec.id),
            kind=self.spec.kind,
            state=state or self.shown,
            address=self.address,
            pid=self.pid,
            generation=self.generation,
            restarts=self.restarts,
            since_s=max(0.0, now - self.since),
            strategy=self.strategy,
            last_exit=self.last_exit,
        )


def join(parent: str, child: str) -> str:
    """The path of `child` below `parent`; the root's own path is empty."""
    return f"{parent}/{child}" if parent else child
