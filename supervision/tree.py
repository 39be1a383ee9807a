"""The decisions of a supervisor: (state, what happened, now) → (state, actions).

Pure: no process, no clock, no dice. Each public method is something that happened; it changes
the state and returns the `Action`s to carry out, in order. After each the shell asks `wakeup`
when to call `tick`. `now` is monotonic, in seconds. The semantics are Erlang/OTP's
(`supervisor`, design principles §5), with these differences: a start is not awaited, so the
mailbox stays open; a process is spawned ahead of its turn to start, so that a chain restarts
in the time of its slowest spawn; repeated failures wait (`Backoff`); what is owed to something
outside that is missing (`ExternalCause`) is repeated until that is back.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from supervision.actions import Action, Emit, EndTree, Kill, Serve, Spawn, Start, Stop
from supervision.backoff import Backoff
from supervision.child_state import ChildPhase, ChildState, join
from supervision.children import Children
from supervision.contracts import ExitReason
from supervision.errors import Conflict, Overloaded
from supervision.events import (
    ChildExited,
    ChildGaveUp,
    ChildKilled,
    ChildRestarting,
    ChildStarted,
    Event,
    TreeChanged,
    TreeEscalated,
    TreeStopped,
    TreeStopping,
)
from supervision.external_cause import PATIENCE, ExternalCause
from supervision.intensity import Intensity
from supervision.spec import ChildSpec, Restart
from supervision.strategy import AutoShutdown, Strategy, affected

_SELF_END_S = 1.0  # what a child that couldn't start may take to end by itself
_KILL_AGAIN_S = 1.0  # a kill that wasn't seen to work is repeated
_STOP_SHARE = 0.9  # of its shutdown that a child is told; the rest is for ending


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
        self.state = "new"  # new, starting, running, stopping, stopped
        self.causes: tuple[str, ...] = ()
        self.children = Children(path, specs)
        self._intensity = Intensity(intensity, period_s)
        self._draw = draw
        self.auto_shutdown = auto_shutdown
        self._together, self._eager = together, eager
        self._max_children = max_children
        self._generation = 0
        self._reason = ExitReason.SHUTDOWN
        self._excuse: ExternalCause | None = None
        self._stopping_since = 0.0
        self._served = False
        self._out: list[Action] = []

    def number(self, id: str) -> int:
        """Which of the children it is in start order, from 0; they are one if they have none."""
        return 0 if self._together else self.children.ids.index(id)

    # ---- what happens to the supervisor

    def begin(self, now: float) -> list[Action]:
        """Start all children."""
        if self.state == "new":
            self.state = "starting"
            for member in self.children:
                member.since = now
                self._changed(member, now)
        return self._advance(now)

    def stop(self, now: float) -> list[Action]:
        """The parent says so: stop all children in reverse, then finish as SHUTDOWN."""
        self._end(ExitReason.SHUTDOWN, (), "told to", now)
        return self._advance(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        for member in self.children:
            if now < member.due:
                continue
            if member.phase is ChildPhase.STARTING:
                member.cause = ExitReason.START_FAILED
                member.error = f"it wasn't ready within {member.spec.start_timeout_s:g} s"
                self._kill(member, member.error, now)
            elif member.phase is ChildPhase.STOPPING:
                self._kill(member, f"it didn't end within {now - member.began:.1f} s", now)
        return self._advance(now)

    # ---- what happens to a child; all of it may come twice, late, or out of order

    def spawned(self, id: str, generation: int, pid: int, address: str, now: float) -> list[Action]:
        """Its process is up, and can be told to start."""
        member = self.children.member(id, generation)
        if member is not None and member.live and not member.pid:
            member.pid, member.address = pid, address
            self._changed(member, now)
        return self._advance(now)

    def ready(
        self, id: str, generation: int, pid: int, address: str, now: float, *, strategy: str = ""
    ) -> list[Action]:
        """A child answered `Start`; `strategy` is a supervisor's own."""
        member = self.children.member(id, generation)
        if member is None or member.phase is not ChildPhase.STARTING:
            return []
        self._show(member, ChildPhase.RUNNING, now)
        member.pid, member.address, member.ready_at = pid, address, now
        member.strategy = strategy
        member.due, member.ever_ready = math.inf, True
        member.probation = member.trial = False
        self._emit(
            ChildStarted(
                path=join(self.path, id),
                generation=generation,
                pid=pid,
                restarts=member.restarts,
                took_s=now - member.began,
            )
        )
        self._changed(member, now)
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
        self._show(member, ChildPhase.STOPPING, now)
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
            self._show(member, ChildPhase.STOPPING, now)
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
        self._kill(member, why, now)
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
        reason, error = member.verdict(error)
        member.excuse = member.excuse or excuse
        ran_s = now - member.ready_at if member.ready_at is not None else 0.0
        self._emit(
            ChildExited(
                path=join(self.path, id),
                generation=generation,
                pid=member.pid,
                reason=reason,
                error=error,
                ran_s=ran_s,
            )
        )
        member.last_exit = f"{reason}: {error}" if error else str(reason)
        condemned = member.condemned
        member.gone()
        if self.state == "stopping" or member.removed:
            self._retire(member, now)
        elif condemned:
            if member.spec.restart is Restart.TEMPORARY:
                self._retire(member, now)
            else:
                member.restarts += 1
        elif member.probation or member.trial:
            member.forgotten = member.probation
            self._retire(member, now)
        else:
            self._died(member, reason, error, ran_s, now)
        if member.phase is ChildPhase.IDLE:
            member.since = now
            self._changed(member, now)
        return self._advance(now)

    # ---- verbs

    def add(self, spec: ChildSpec, now: float) -> list[Action]:
        """Start one more child, the last in order.

        Raises:
            Conflict: there is a child of that id (`param` says whether it is already_started or
                only already_present), or the supervisor is stopping.
            Overloaded: there are `max_children` already.
        """
        if spec.id in self.children:
            present = self.children.known(spec.id).phase is ChildPhase.DONE
            raise Conflict(
                f"{self.path} already has a child {spec.id}; take another id",
                param="already_present" if present else "already_started",
            )
        if self.state not in ("starting", "running"):
            raise Conflict(f"{self.path} is {self.state} and takes no new child")
        if len(self.children) >= self._max_children:
            raise Overloaded(f"{self.path} has {self._max_children} children, as many as it may")
        member = self.children.add(ChildState(spec, since=now, probation=True))
        self._changed(member, now)
        return self._advance(now)

    def terminate(self, id: str, now: float, *, forget: bool = False) -> list[Action]:
        """Stop one child and leave it down; with `forget` its spec goes as well.

        Raises:
            Conflict: there is no such child.
        """
        member = self.children.known(id)
        member.removed, member.forgotten = True, member.forgotten or forget
        if not member.live:
            self._retire(member, now)
        elif member.phase is not ChildPhase.STOPPING:
            self._stop(member, now)
        return self._advance(now)

    def restart(self, id: str, now: float) -> list[Action]:
        """Start a child again that was terminated or has ended. If that fails, it stays down.

        Raises:
            Conflict: there is no such child (`param` not_found), it isn't down (running or
                restarting), or the supervisor is stopping.
        """
        member = self.children.down(id)
        if self.state not in ("starting", "running"):
            raise Conflict(f"{self.path or 'the root'} is {self.state} and restarts nobody")
        member.phase, member.removed, member.due = ChildPhase.IDLE, False, now
        member.since, member.trial = now, True
        self._changed(member, now)
        return self._advance(now)

    def renew(self, id: str, now: float) -> list[Action]:
        """Stop a child in order and start it again, together with those that the strategy
        restarts with it. No failure, so it counts towards no intensity. A child that is down is
        started alone.

        Raises:
            Conflict: there is no such child, or the supervisor is stopping.
        """
        member = self.children.known(id)
        if self.state not in ("starting", "running"):
            raise Conflict(f"{self.path or 'the root'} is {self.state} and restarts nobody")
        if member.phase is ChildPhase.DONE:
            return self.restart(id, now)
        if member.phase is ChildPhase.IDLE:
            member.due = now
        for other in affected(self.strategy, self.children.ids, id):
            self._condemn(self.children.known(other), None, now)
        return self._advance(now)

    def delete(self, id: str, now: float) -> list[Action]:
        """Forget a child that is down.

        Raises:
            Conflict: there is no such child (`param` not_found), or it isn't down (running or
                restarting).
        """
        member = self.children.down(id)
        member.forgotten = True
        self._retire(member, now)
        return self._advance(now)

    def wakeup(self, now: float) -> float | None:
        """When `tick` is due next; None when only an event can change anything."""
        times = [
            m.due
            for m in self.children
            if m.due < math.inf and (m.phase is not ChildPhase.IDLE or m.due > now)
        ]
        return min(times, default=None)

    # ---- decisions

    def _died(
        self, member: ChildState, reason: ExitReason, error: str, ran_s: float, now: float
    ) -> None:
        """A child ended that nobody had told to."""
        path = join(self.path, member.spec.id)
        first_start = self.state == "starting" and not member.ever_ready and not self._eager
        if first_start and reason is ExitReason.START_FAILED:
            why = f"{path} could not start: {error}"
            self._end(ExitReason.FAILED, (why,), why, now, member.excuse)
            return
        if not member.returns(reason):
            self._retire(member, now)
            self._weigh(member, reason, now)
            return
        backoff: Backoff = member.spec.backoff
        steady = ran_s > 0 and ran_s >= backoff.steady_s
        if steady:
            member.failures = member.excused = 0
        if member.excuse is not None:
            member.excused += 1
            attempt, backoff = member.excused, PATIENCE
        else:
            member.failures += 1
            attempt = member.failures
        if member.excuse is None and not self._intensity.admit(now):
            limit, period_s = self._intensity.limit, self._intensity.period_s
            self._emit(
                ChildGaveUp(path=path, restarts=member.restarts, period_s=period_s, error=error)
            )
            why = (
                f"{path} had to be restarted more than {limit} times in {period_s:g} s, "
                f"last because of {reason}"
            )
            self._end(ExitReason.FAILED, (why, *([error] if error else [])), why, now)
            return
        delay_s = backoff.delay_s(attempt, self._draw())
        member.due = now + delay_s
        member.restarts += 1
        self._emit(
            ChildRestarting(
                path=path,
                attempt=attempt,
                restarts=member.restarts,
                delay_s=delay_s,
                excuse=str(member.excuse or ""),
            )
        )
        for id in affected(self.strategy, self.children.ids, member.spec.id):
            self._condemn(self.children.known(id), member, now)

    def _condemn(self, member: ChildState, died: ChildState | None, now: float) -> None:
        """`member` is restarted because `died` is, or because somebody says so."""
        if member is died or member.removed:
            return
        if member.phase in (ChildPhase.STARTING, ChildPhase.RUNNING, ChildPhase.STOPPING):
            member.condemned = True
        elif member.phase is ChildPhase.DONE:  # a transient that had ended; OTP starts it again too
            member.phase, member.due, member.since = ChildPhase.IDLE, now, now
            self._changed(member, now)

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
        if self.state in ("stopping", "stopped"):
            return
        self.state, self._reason, self.causes = "stopping", reason, causes
        self._excuse = excuse
        self._stopping_since = now
        live = sum(m.live for m in self.children)
        self._emit(TreeStopping(path=self.path, children=live, why=why))
        for member in self.children:
            if member.phase is ChildPhase.IDLE:
                self._retire(member, now)

    def _advance(self, now: float) -> list[Action]:
        """Do whatever may be done now, and hand over all actions."""
        if self.state == "stopping":
            live = [m for m in self.children if m.live]
            self._stop_last(live, now)
            if not live:
                self.state = "stopped"
                self._finish(now)
        elif self.state in ("starting", "running"):
            members = list(self.children)
            self._stop_last([m for m in members if m.condemned], now)
            self._start_next(members, now)
            if not self._served and (self._eager or all(m.settled for m in members)):
                self._served = True
                self.state = "running"
                self._out.append(Serve())
        out, self._out = self._out, []
        return out

    def _stop_last(self, members: Sequence[ChildState], now: float) -> None:
        """Stop the last of `members` that runs, or all of them if there is no order. What was
        never told to start has nothing to lose, and goes at once."""
        waiting: Iterable[ChildState] = members if self._together else members[-1:]
        for member in [m for m in members if m.phase is ChildPhase.SPAWNED]:
            self._stop(member, now)
        for member in waiting:
            if member.phase in (ChildPhase.STARTING, ChildPhase.RUNNING):
                self._stop(member, now)

    def _start_next(self, members: Sequence[ChildState], now: float) -> None:
        """Spawn all that is due; start those whose turn has come."""
        for member in members:
            if member.condemned or self._takes_others_along(member):
                break  # in start order, so that who is first to start isn't last to be spawned
            if member.phase is ChildPhase.IDLE and member.due <= now:
                self._generation += 1
                member.spawned(self._generation, now)
                self._out.append(Spawn(member.spec, member.generation))
        if any(m.condemned or self._takes_others_along(m) for m in members):
            return  # first everything stops, then it starts
        earlier_settled = True
        for member in members:
            free = self._together or (self.strategy is Strategy.ONE_FOR_ONE and member.ever_ready)
            if member.phase is ChildPhase.SPAWNED and (free or earlier_settled):
                member.phase = ChildPhase.STARTING
                member.due = now + member.spec.start_timeout_s
                needs = tuple((id, self.children.known(id).address) for id in member.spec.needs)
                self._out.append(Start(member.spec.id, member.generation, needs))
            earlier_settled = earlier_settled and member.settled

    def _takes_others_along(self, member: ChildState) -> bool:
        """It ends, and nobody wanted that: its group isn't condemned before its exit is seen."""
        alone = self._together or self.strategy is Strategy.ONE_FOR_ONE
        return member.phase is ChildPhase.STOPPING and not (alone or member.removed)

    def _stop(self, member: ChildState, now: float) -> None:
        started = member.phase is not ChildPhase.SPAWNED
        member.cause = ExitReason.SHUTDOWN
        self._show(member, ChildPhase.STOPPING, now)
        member.began, member.due = now, now + member.spec.stop_s
        if started and member.spec.stop_s > 0:
            deadline_s = member.spec.stop_s * _STOP_SHARE
            self._out.append(
                Stop(member.spec.id, member.generation, deadline_s, ExitReason.SHUTDOWN)
            )
        else:
            self._kill(member, "it has nothing to finish", now)

    def _kill(self, member: ChildState, why: str, now: float) -> None:
        after_s = now - member.began
        if member.phase is not ChildPhase.STOPPING:
            self._show(member, ChildPhase.STOPPING, now)
            member.began = now
        member.due = now + _KILL_AGAIN_S
        self._out.append(Kill(member.spec.id, member.generation))
        if not member.killed:
            member.killed = True
            self._emit(
                ChildKilled(
                    path=join(self.path, member.spec.id),
                    generation=member.generation,
                    pid=member.pid,
                    why=why,
                    after_s=after_s,
                )
            )

    def _retire(self, member: ChildState, now: float) -> None:
        """It is down and stays so; temporary ones are forgotten."""
        member.phase, member.due, member.since = ChildPhase.DONE, math.inf, now
        forget = member.forgotten or member.spec.restart is Restart.TEMPORARY
        if forget and self.state != "stopping":
            self.children.forget(member)
            self._changed(member, now, state="deleted")
        else:
            self._changed(member, now)

    def _finish(self, now: float) -> None:
        self._emit(TreeStopped(path=self.path, took_s=now - self._stopping_since))
        if self._reason is ExitReason.FAILED:
            self._emit(TreeEscalated(path=self.path, causes=self.causes))
        self._out.append(EndTree(self._reason, self.causes, self._excuse))

    def _show(self, member: ChildState, phase: ChildPhase, now: float) -> None:
        before = member.shown
        member.phase = phase
        if member.shown != before:
            member.since = now
            if phase is not ChildPhase.RUNNING:
                self._changed(member, now)

    def _changed(self, member: ChildState, now: float, state: str | None = None) -> None:
        self._emit(
            TreeChanged(
                path=join(self.path, member.spec.id), node=member.node(self.path, now, state=state)
            )
        )

    def _emit(self, event: Event) -> None:
        self._out.append(Emit(event))
