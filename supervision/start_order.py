"""Whose turn it is to be spawned, started and stopped. Pure.

Children start in the order of their specs and stop in the reverse of it. A process is spawned
ahead of its turn, so that a chain restarts in the time of its slowest spawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supervision.child_state import ChildPhase, ChildState
from supervision.strategy import Strategy


@dataclass(frozen=True, slots=True)
class StartOrder:
    """`together`: children have no order. All methods get the children in start order."""

    strategy: Strategy
    together: bool

    def to_stop(self, members: Sequence[ChildState]) -> list[ChildState]:
        """The last of `members`, which all have to end, or all of them if there is no order. What
        was never told to start has nothing to lose, and goes at once."""
        idle = [m for m in members if m.phase is ChildPhase.SPAWNED]
        turn = members if self.together else members[-1:]
        return idle + [m for m in turn if m.phase in (ChildPhase.STARTING, ChildPhase.RUNNING)]

    def to_spawn(self, members: Sequence[ChildState], now: float) -> list[ChildState]:
        """All that are due; in start order, so that who is first to start isn't last to be
        spawned."""
        found = []
        for member in members:
            if member.condemned or self._takes_others_along(member):
                break
            if member.phase is ChildPhase.IDLE and member.due <= now:
                found.append(member)
        return found

    def to_start(self, members: Sequence[ChildState]) -> list[ChildState]:
        """Those whose processes are spawned and whose turn has come."""
        if any(m.condemned or self._takes_others_along(m) for m in members):
            return []  # first everything stops, then it starts
        found = []
        earlier_settled = True
        for member in members:
            free = self.together or (self.strategy is Strategy.ONE_FOR_ONE and member.ever_ready)
            if member.phase is ChildPhase.SPAWNED and (free or earlier_settled):
                found.append(member)
            earlier_settled = earlier_settled and member.settled
        return found

    def _takes_others_along(self, member: ChildState) -> bool:
        """It ends, and nobody wanted that: its group isn't condemned before its exit is seen."""
        alone = self.together or self.strategy is Strategy.ONE_FOR_ONE
        return member.phase is ChildPhase.STOPPING and not (alone or member.removed)
