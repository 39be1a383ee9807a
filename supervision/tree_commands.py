"""Commands on the children of a supervisor: OTP's verbs, and an operator's restart.

Pure.
"""

from __future__ import annotations

from supervision.child_state import ChildPhase, ChildState
from supervision.child_transitions import ChildTransitions
from supervision.errors import Conflict, Overloaded
from supervision.spec import ChildSpec
from supervision.strategy import Strategy, affected


class TreeCommands:
    """The part of a `SupervisionTree` that takes orders. What follows from one, the tree does."""

    def __init__(
        self, transitions: ChildTransitions, strategy: Strategy, max_children: int
    ) -> None:
        self._transitions = transitions
        self._children = transitions.children
        self._strategy = strategy
        self._max_children = max_children

    def add(self, spec: ChildSpec, now: float) -> None:
        """Start one more child, the last in order.

        Raises:
            Conflict: there is a child of that id (`param` says whether it is already_started or
                only already_present), or the supervisor is stopping.
            Overloaded: there are `max_children` already.
        """
        path, state = self._transitions.path, self._transitions.state
        if spec.id in self._children:
            present = self._children.known(spec.id).phase is ChildPhase.DONE
            raise Conflict(
                f"{path} already has a child {spec.id}; take another id",
                param="already_present" if present else "already_started",
            )
        if not state.takes_orders:
            raise Conflict(f"{path} is {state} and takes no new child")
        if len(self._children) >= self._max_children:
            raise Overloaded(f"{path} has {self._max_children} children, as many as it may")
        member = self._children.add(ChildState(spec, since=now, probation=True))
        self._transitions.changed(member, now)

    def terminate(self, id: str, now: float, *, forget: bool = False) -> None:
        """Stop one child and leave it down; with `forget` its spec goes as well.

        Raises:
            Conflict: there is no such child.
        """
        member = self._children.known(id)
        member.removed, member.forgotten = True, member.forgotten or forget
        if not member.live:
            self._transitions.retire(member, now)
        elif member.phase is not ChildPhase.STOPPING:
            self._transitions.stop(member, now)

    def restart(self, id: str, now: float) -> None:
        """Start a child again that was terminated or has ended. If that fails, it stays down.

        Raises:
            Conflict: there is no such child (`param` not_found), it isn't down (running or
                restarting), or the supervisor is stopping.
        """
        member = self._children.down(id)
        self._may_restart()
        member.removed, member.trial = False, True
        self._transitions.await_turn(member, now)

    def renew(self, id: str, now: float) -> None:
        """Stop a child in order and start it again, together with those that the strategy
        restarts with it. No failure, so it counts towards no intensity. A child that is down is
        started alone.

        Raises:
            Conflict: there is no such child, or the supervisor is stopping.
        """
        member = self._children.known(id)
        self._may_restart()
        if member.phase is ChildPhase.DONE:
            self.restart(id, now)
            return
        if member.phase is ChildPhase.IDLE:
            member.due = now
        for other in affected(self._strategy, self._children.ids, id):
            self._transitions.condemn(self._children.known(other), None, now)

    def delete(self, id: str, now: float) -> None:
        """Forget a child that is down.

        Raises:
            Conflict: there is no such child (`param` not_found), or it isn't down (running or
                restarting).
        """
        member = self._children.down(id)
        member.forgotten = True
        self._transitions.retire(member, now)

    def _may_restart(self) -> None:
        path, state = self._transitions.path, self._transitions.state
        if not state.takes_orders:
            raise Conflict(f"{path or 'the root'} is {state} and restarts nobody")
