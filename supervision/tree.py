"""The decisions of a supervisor: (state, what happened, now) → (state, actions).

Pure: no process, no clock, no dice. Each public method is something that happened; it changes
the state and returns the `Action`s to carry out, in order. After each the shell asks `wakeup`
when to call `tick`. `now` is monotonic, in seconds. The semantics are Erlang/OTP's
(`supervisor`, design principles §5), with these differences: a start is not awaited, so the
mailbox stays open; a process is spawned ahead of its turn (`StartOrder`); repeated failures wait
(`Backoff`); what is owed to something outside that is missing (`ExternalCause`) is repeated until
that is back.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from supervision.actions import Action, EndTree, Serve
from supervision.child_state import ChildPhase, ChildState, join
from supervision.child_transitions import ChildTransitions, TreeState
from supervision.children import Children
from supervision.contracts import ExitReason
from supervision.events import (
    ChildGaveUp,
    ChildRestarting,
    TreeEscalated,
    TreeStopped,
    TreeStopping,
)
from supervision.external_cause import ExternalCause
from supervision.intensity import Intensity
from supervision.restart_policy import RestartPolicy
from supervision.spec import ChildSpec, Restart
from supervision.start_order import StartOrder
from supervision.strategy import AutoShutdown, Strategy, affected
from supervision.tree_commands import TreeCommands

_SELF_END_S = 1.0  # what a child that couldn't start may take to end by itself


class SupervisionTree:
    """One supervisor and its children.

    `together`: children have no order; they start and stop at once. `eager`: ready before they
    are, and a failed first start is a failure like any other. `draw` is uniform in [0, 1).
    """

    def __init__(
        self,
        path: str,
        specs: Sequence[ChildSpec],
        *,
        strategy: Strategy,
        intensity: int,
        period_s: float,
        draw: Callable[[], float],
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        together: bool = False,
        eager: bool = False,
        max_children: int = 1024,
    ) -> None:
        self.path = path
        self.strategy = strategy
        self.causes: tuple[str, ...] = ()
        self.children = Children(path, specs)
        self.auto_shutdown = auto_shutdown
        self._transitions = ChildTransitions(path, self.children)
        self._commands = TreeCommands(self._transitions, strategy, max_children)
        self._order = StartOrder(strategy, together)
        self._policy = RestartPolicy(Intensity(intensity, period_s), draw)
        self._eager = eager
        self._reason = ExitReason.SHUTDOWN
        self._excuse: ExternalCause | None = None
        self._stopping_since = 0.0
        self._served = False

    @property
    def state(self) -> TreeState:
        """How far it is with its children as a whole."""
        return self._transitions.state

    def number(self, id: str) -> int:
        """Which of the children it is in start order, from 0; they are one if they have none."""
        return 0 if self._order.together else self.children.ids.index(id)

    # ---- what happens to the supervisor

    def begin(self, now: float) -> list[Action]:
        """Start all children."""
        if self.state is TreeState.NEW:
            self._transitions.state = TreeState.STARTING
            for member in self.children:
                member.since = now
                self._transitions.changed(member, now)
        return self._advance(now)

    def stop(self, now: float) -> list[Action]:
        """The parent says so: stop all children in reverse, then finish as SHUTDOWN."""
        self._end(ExitReason.SHUTDOWN, (), "told to", now)
        return self._advance(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        for member in self.children:
            if now >= member.due:
                self._transitions.overdue(member, now)
        return self._advance(now)

    # ---- what happens to a child; all of it may come twice, late, or out of order

    def spawned(self, id: str, generation: int, pid: int, address: str, now: float) -> list[Action]:
        """Its process is up, and can be told to start."""
        member = self.children.member(id, generation)
        if member is not None and member.live and not member.pid:
            member.pid, member.address = pid, address
            self._transitions.changed(member, now)
        return self._advance(now)

    def ready(
        self, id: str, generation: int, pid: int, address: str, now: float, *, strategy: str = ""
    ) -> list[Action]:
        """A child answered `Start`; `strategy` is a supervisor's own."""
        member = self.children.member(id, generation)
        if member is None or member.phase is not ChildPhase.STARTING:
            return []
        self._transitions.ready(member, pid, address, strategy, now)
        return self._advance(now)

    def start_failed(
        self,
        id: str,
        generation: int,
        error: str,
        now: float,
        *,
        excuse: ExternalCause | None = None,
    ) -> list[Action]:
        """A child answered `Start` with an error; it ends by itself, or is killed."""
        member = self.children.member(id, generation)
        if member is None or member.phase is not ChildPhase.STARTING:
            return []
        member.cause, member.error, member.excuse = ExitReason.START_FAILED, error, excuse
        self._transitions.show(member, ChildPhase.STOPPING, now)
        member.began, member.due = now, now + _SELF_END_S
        return self._advance(now)

    def noticed(
        self,
        id: str,
        generation: int,
        reason: ExitReason,
        error: str,
        now: float,
        *,
        excuse: ExternalCause | None = None,
    ) -> list[Action]:
        """A child says why it is about to end; it has as long as if it were told to."""
        member = self.children.member(id, generation)
        if member is None or not member.live or member.notice is not None:
            return []
        member.notice, member.excuse = (reason, error), excuse
        if member.phase is ChildPhase.RUNNING:
            self._transitions.show(member, ChildPhase.STOPPING, now)
            member.began, member.due = now, now + member.spec.stop_s
        return self._advance(now)

    def doomed(self, id: str, generation: int, why: str, now: float) -> list[Action]:
        """A child can't be left as it is: it hangs, or holds too much. It is killed, unless it is
        about to be anyway."""
        member = self.children.member(id, generation)
        if member is None or member.killed:
            return []
        if member.phase is ChildPhase.RUNNING:
            member.notice, member.began = (ExitReason.KILLED, why), now
        elif member.phase is not ChildPhase.STOPPING or member.due < math.inf:
            return []
        self._transitions.kill(member, why, now)
        return self._advance(now)

    def exited(
        self,
        id: str,
        generation: int,
        now: float,
        error: str = "",
        *,
        excuse: ExternalCause | None = None,
    ) -> list[Action]:
        """The process of a child is gone, or could not be created; `excuse` is what its supervisor
        knows of that."""
        member = self.children.member(id, generation)
        if member is None or not member.live:
            return []
        condemned = member.condemned
        member.excuse = member.excuse or excuse
        reason, error, ran_s = self._transitions.exited(member, error, now)
        if self.state is TreeState.STOPPING or member.removed:
            self._transitions.retire(member, now)
        elif condemned:
            if member.spec.restart is Restart.TEMPORARY:
                self._transitions.retire(member, now)
            else:
                member.restarts += 1
        elif member.probation or member.trial:
            member.forgotten = member.probation
            self._transitions.retire(member, now)
        else:
            self._died(member, reason, error, ran_s, now)
        if member.phase is ChildPhase.IDLE:
            member.since = now
            self._transitions.changed(member, now)
        return self._advance(now)

    # ---- orders

    def add(self, spec: ChildSpec, now: float) -> list[Action]:
        """Start one more child, the last in order; raises what `TreeCommands.add` does."""
        self._commands.add(spec, now)
        return self._advance(now)

    def terminate(self, id: str, now: float, *, forget: bool = False) -> list[Action]:
        """Stop one child for good; raises what `TreeCommands.terminate` does."""
        self._commands.terminate(id, now, forget=forget)
        return self._advance(now)

    def restart(self, id: str, now: float) -> list[Action]:
        """Start a child that is down; raises what `TreeCommands.restart` does."""
        self._commands.restart(id, now)
        return self._advance(now)

    def renew(self, id: str, now: float) -> list[Action]:
        """Stop a child and start it again, with its group; raises what `TreeCommands.renew`
        does."""
        self._commands.renew(id, now)
        return self._advance(now)

    def delete(self, id: str, now: float) -> list[Action]:
        """Forget a child that is down; raises what `TreeCommands.delete` does."""
        self._commands.delete(id, now)
        return self._advance(now)

    # ---- the clock

    def wakeup(self, now: float) -> float | None:
        """When `tick` is due next; None when only an event can change anything."""
        return self.children.next_due(now)

    # ---- decisions

    def _died(
        self, member: ChildState, reason: ExitReason, error: str, ran_s: float, now: float
    ) -> None:
        """A child ended that nobody had told to."""
        path = join(self.path, member.spec.id)
        first_start = self.state is TreeState.STARTING and not member.ever_ready and not self._eager
        if first_start and reason is ExitReason.START_FAILED:
            why = f"{path} could not start: {error}"
            self._end(ExitReason.FAILED, (why,), why, now, member.excuse)
            return
        if not member.returns(reason):
            self._transitions.retire(member, now)
            self._weigh(member, reason, now)
            return
        delay_s = self._policy.delay_s(member, ran_s, now)
        if delay_s is None:
            period_s = self._policy.period_s
            self._transitions.emit(
                ChildGaveUp(path=path, restarts=member.restarts, period_s=period_s, error=error)
            )
            why = (
                f"{path} had to be restarted more than {self._policy.limit}, "
                f"last because of {reason}"
            )
            self._end(ExitReason.FAILED, (why, *([error] if error else [])), why, now)
            return
        member.due = now + delay_s
        member.restarts += 1
        self._transitions.emit(
            ChildRestarting(
                path=path,
                attempt=self._policy.attempt(member),
                restarts=member.restarts,
                delay_s=delay_s,
                excuse=str(member.excuse or ""),
            )
        )
        for id in affected(self.strategy, self.children.ids, member.spec.id):
            self._transitions.condemn(self.children.known(id), member, now)

    def _weigh(self, member: ChildState, reason: ExitReason, now: float) -> None:
        """A child ended for good; does its supervisor follow?"""
        if self.auto_shutdown is AutoShutdown.NEVER or not member.spec.significant:
            return
        others = any(m.spec.significant and m.phase is not ChildPhase.DONE for m in self.children)
        if self.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or not others:
            why = f"{join(self.path, member.spec.id)} is significant and ended: {reason}"
            self._end(ExitReason.SHUTDOWN, (why,), why, now)

    def _end(
        self,
        reason: ExitReason,
        causes: tuple[str, ...],
        why: str,
        now: float,
        excuse: ExternalCause | None = None,
    ) -> None:
        """Stop everything; the first reason stands."""
        if self.state in (TreeState.STOPPING, TreeState.STOPPED):
            return
        self._transitions.state = TreeState.STOPPING
        self._reason, self.causes = reason, causes
        self._excuse = excuse
        self._stopping_since = now
        live = sum(m.live for m in self.children)
        self._transitions.emit(TreeStopping(path=self.path, children=live, why=why))
        for member in self.children:
            if member.phase is ChildPhase.IDLE:
                self._transitions.retire(member, now)

    def _advance(self, now: float) -> list[Action]:
        """Do whatever may be done now, and hand over all actions."""
        if self.state is TreeState.STOPPING:
            live = [m for m in self.children if m.live]
            self._stop_next(live, now)
            if not live:
                self._transitions.state = TreeState.STOPPED
                self._finish(now)
        elif self.state.takes_orders:
            members = list(self.children)
            self._stop_next([m for m in members if m.condemned], now)
            for member in self._order.to_spawn(members, now):
                self._transitions.spawn(member, now)
            for member in self._order.to_start(members):
                self._transitions.start(member, now)
            if not self._served and (self._eager or all(m.settled for m in members)):
                self._served = True
                self._transitions.state = TreeState.RUNNING
                self._transitions.do(Serve())
        return self._transitions.take()

    def _stop_next(self, members: Sequence[ChildState], now: float) -> None:
        for member in self._order.to_stop(members):
            self._transitions.stop(member, now)

    def _finish(self, now: float) -> None:
        self._transitions.emit(TreeStopped(path=self.path, took_s=now - self._stopping_since))
        if self._reason is ExitReason.FAILED:
            self._transitions.emit(TreeEscalated(path=self.path, causes=self.causes))
        self._transitions.do(EndTree(self._reason, self.causes, self._excuse))
