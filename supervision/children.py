"""The children of a supervisor, in start order, and what there is to ask about them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from supervision.child_state import ChildPhase, ChildState, join
from supervision.contracts import ChildKind, TreeNode
from supervision.errors import Conflict
from supervision.spec import ChildSpec


class Children:
    """Changed by the `SupervisionTree` alone; `path` is the supervisor's."""

    def __init__(self, path: str, specs: Sequence[ChildSpec]) -> None:
        self._path = path
        self._members = {spec.id: ChildState(spec) for spec in specs}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[ChildState]:
        return iter(self._members.values())

    def __contains__(self, id: str) -> bool:
        return id in self._members

    # ---- what it looks like

    @property
    def ids(self) -> tuple[str, ...]:
        """In start order."""
        return tuple(self._members)

    def which(self, now: float) -> tuple[TreeNode, ...]:
        """All children, in start order."""
        return tuple(member.node(self._path, now) for member in self)

    def specs(self) -> tuple[ChildSpec, ...]:
        """What the children were made from, in start order."""
        return tuple(member.spec for member in self)

    def spec(self, id: str) -> ChildSpec:
        """What a child is made from.

        Raises:
            Conflict: there is no such child.
        """
        return self.known(id).spec

    def count(self) -> dict[str, int]:
        """How many children there are: specs, active, workers, supervisors."""
        supervisors = sum(member.spec.kind is ChildKind.SUPERVISOR for member in self)
        return {
            "specs": len(self),
            "active": sum(member.live for member in self),
            "workers": len(self) - supervisors,
            "supervisors": supervisors,
        }

    def node(self, id: str, now: float) -> TreeNode | None:
        """One child; None when there is none of that id."""
        member = self._members.get(id)
        return member.node(self._path, now) if member else None

    def generation(self, id: str) -> int:
        """The latest generation of a child; 0 when there is none of that id."""
        member = self._members.get(id)
        return member.generation if member else 0

    # ---- for the tree

    def member(self, id: str, generation: int) -> ChildState | None:
        """The child, if that is its generation still."""
        member = self._members.get(id)
        return member if member is not None and member.generation == generation else None

    def known(self, id: str) -> ChildState:
        """
        Raises:
            Conflict: there is no such child (`param` not_found).
        """
        member = self._members.get(id)
        if member is None:
            raise Conflict(f"{self._path or 'the root'} has no child {id}", param="not_found")
        return member

    def down(self, id: str) -> ChildState:
        """
        Raises:
            Conflict: there is no such child (`param` not_found), or it isn't down (running or
                restarting).
        """
        member = self.known(id)
        if member.phase is not ChildPhase.DONE:
            running = member.phase in (ChildPhase.RUNNING, ChildPhase.STOPPING)
            raise Conflict(
                f"{join(self._path, id)} is {member.shown}; terminate it first",
                param="running" if running else "restarting",
            )
        return member

    def next_due(self, now: float) -> float | None:
        """When the next deadline is; None if there is none. Who may start since `now` or before
        waits for somebody, not for a time."""
        times = [
            member.due
            for member in self
            if member.due < math.inf and (member.phase is not ChildPhase.IDLE or member.due > now)
        ]
        return min(times, default=None)

    def add(self, member: ChildState) -> ChildState:
        """One more, the last in order."""
        self._members[member.spec.id] = member
        return member

    def forget(self, member: ChildState) -> None:
        """It was one."""
        del self._members[member.spec.id]
