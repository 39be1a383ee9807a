"""The steps of children from one phase to the next, with the actions that carry them out.

Who takes which step when is decided in `tree` and `tree_commands`; here is what belongs to it:
deadlines, the events that tell of it, and the order to the shell.

Pure.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from supervision.actions import Action, Emit, Kill, Spawn, Start, Stop
from supervision.child_state import ChildPhase, ChildState, join
from supervision.children import Children
from supervision.contracts import ChildStatus, ExitReason
from supervision.events import ChildExited, ChildKilled, ChildStarted, Event, TreeChanged
from supervision.spec import Restart

_KILL_AGAIN_S: Final = 1.0  # a kill that wasn't seen to work is repeated
_STOP_SHARE: Final = 0.9  # of its shutdown that a child is told; the rest is for ending


class TreeState(StrEnum):
    """How far a supervisor is with its children as a whole."""

    NEW = "new"  # nobody has told it to begin
    STARTING = "starting"  # not all have been ready once
    RUNNING = "running"  # it serves
    STOPPING = "stopping"  # all go, and none comes back
    STOPPED = "stopped"  # none is left

    @property
    def takes_orders(self) -> bool:
        """Children may be added and restarted."""
        return self in (TreeState.STARTING, TreeState.RUNNING)


class ChildTransitions:
    """The children of the supervisor at `path`, and what is to be done about them."""

    def __init__(self, path: str, children: Children) -> None:
        self.path = path
        self.children = children
        self.state = TreeState.NEW
        self._generation = 0
        self._actions: list[Action] = []

    # ---- what is to be done

    def do(self, action: Action) -> None:
        """After all that is to be done already."""
        self._actions.append(action)

    def emit(self, event: Event) -> None:
        """Tell whoever listens."""
        self.do(Emit(event))

    def take(self) -> list[Action]:
        """All that is to be done since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    # ---- steps

    def await_turn(self, member: ChildState, now: float) -> None:
        """It is to be started as soon as its turn comes."""
        member.phase, member.due, member.since = ChildPhase.IDLE, now, now
        self.changed(member, now)

    def spawn(self, member: ChildState, now: float) -> None:
        """A new generation of it gets a process."""
        self._generation += 1
        member.spawned(self._generation, now)
        self.do(Spawn(member.spec, member.generation))

    def start(self, member: ChildState, now: float) -> None:
        """Its process is told to become ready."""
        member.phase = ChildPhase.STARTING
        member.due = now + member.spec.start_timeout_s
        needs = tuple((id, self.children.known(id).address) for id in member.spec.needs)
        self.do(Start(member.spec.id, member.generation, needs))

    def ready(self, member: ChildState, pid: int, address: str, strategy: str, now: float) -> None:
        """It serves."""
        self.show(member, ChildPhase.RUNNING, now)
        member.pid, member.address, member.ready_at = pid, address, now
        member.strategy = strategy
        member.due, member.ever_ready = math.inf, True
        member.probation = member.trial = False
        self.emit(
            ChildStarted(
                path=join(self.path, member.spec.id),
                generation=member.generation,
                pid=pid,
                restarts=member.restarts,
                took_s=now - member.began,
            )
        )
        self.changed(member, now)

    def overdue(self, member: ChildState, now: float) -> None:
        """It has had its time to start or to stop."""
        if member.phase is ChildPhase.STARTING:
            member.cause = ExitReason.START_FAILED
            member.error = f"it wasn't ready within {member.spec.start_timeout_s:g} s"
            self.kill(member, member.error, now)
        elif member.phase is ChildPhase.STOPPING:
            self.kill(member, f"it didn't end within {now - member.began:.1f} s", now)

    def exited(self, member: ChildState, error: str, now: float) -> tuple[ExitReason, str, float]:
        """Its process is gone: why, the error in a sentence, and how many seconds it had been
        ready."""
        reason, error = member.verdict(error)
        ran_s = now - member.ready_at if member.ready_at is not None else 0.0
        self.emit(
            ChildExited(
                path=join(self.path, member.spec.id),
                generation=member.generation,
                pid=member.pid,
                reason=reason,
                error=error,
                ran_s=ran_s,
            )
        )
        member.last_exit = f"{reason}: {error}" if error else str(reason)
        member.gone()
        return reason, error, ran_s

    def stop(self, member: ChildState, now: float) -> None:
        """It is told to end, or killed if it has nothing to finish."""
        started = member.phase is not ChildPhase.SPAWNED
        member.cause = ExitReason.SHUTDOWN
        self.show(member, ChildPhase.STOPPING, now)
        member.began, member.due = now, now + member.spec.stop_s
        if started and member.spec.stop_s > 0:
            deadline_s = member.spec.stop_s * _STOP_SHARE
            self.do(Stop(member.spec.id, member.generation, deadline_s, ExitReason.SHUTDOWN))
        else:
            self.kill(member, "it has nothing to finish", now)

    def kill(self, member: ChildState, why: str, now: float) -> None:
        """Its process is ended; again and again until that is seen."""
        after_s = now - member.began
        if member.phase is not ChildPhase.STOPPING:
            self.show(member, ChildPhase.STOPPING, now)
            member.began = now
        member.due = now + _KILL_AGAIN_S
        self.do(Kill(member.spec.id, member.generation))
        if not member.killed:
            member.killed = True
            self.emit(
                ChildKilled(
                    path=join(self.path, member.spec.id),
                    generation=member.generation,
                    pid=member.pid,
                    why=why,
                    after_s=after_s,
                )
            )

    def retire(self, member: ChildState, now: float) -> None:
        """It is down and stays so; temporary ones are forgotten."""
        member.phase, member.due, member.since = ChildPhase.DONE, math.inf, now
        forget = member.forgotten or member.spec.restart is Restart.TEMPORARY
        if forget and self.state is not TreeState.STOPPING:
            self.children.forget(member)
            self.changed(member, now, state=ChildStatus.DELETED)
        else:
            self.changed(member, now)

    def condemn(self, member: ChildState, died: ChildState | None, now: float) -> None:
        """`member` is restarted because `died` is, or because somebody says so."""
        if member is died or member.removed:
            return
        if member.phase in (ChildPhase.STARTING, ChildPhase.RUNNING, ChildPhase.STOPPING):
            member.condemned = True
        elif member.phase is ChildPhase.DONE:  # a transient that had ended; OTP starts it again too
            self.await_turn(member, now)

    # ---- what the tree shows of it

    def show(self, member: ChildState, phase: ChildPhase, now: float) -> None:
        """It is in `phase` now; those that look at the tree hear of it, but for readiness, of
        which there is more to say."""
        before = member.shown
        member.phase = phase
        if member.shown != before:
            member.since = now
            if phase is not ChildPhase.RUNNING:
                self.changed(member, now)

    def changed(self, member: ChildState, now: float, state: ChildStatus | None = None) -> None:
        """Those that look at the tree see another line for it."""
        self.emit(
            TreeChanged(
                path=join(self.path, member.spec.id), node=member.node(self.path, now, state=state)
            )
        )
