"""Group commit as a decision: what queued while the last round ran becomes the next round.

A *round* is what one database statement carries. There is no timer: an item that arrives
while nothing runs leaves at once, alone; under load the rounds grow by themselves. A key is
never in two rounds at once, nor twice in one, so two rows of a statement never touch the same
job and two statements of this process never wait for each other's row locks.

Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Rounds(Generic[K, T]):
    """Items that wait for a round, in the order in which they came.

    Args:
        most: items of one round.
        waiting: items that may wait; `offer` refuses beyond it.
        at_once: rounds in flight.
        weigh: how heavy an item is; most are weightless.
        heaviest: what those of one round may weigh together; one that is heavier goes alone.

    Raises:
        ValueError: a bound is below 1.
    """

    def __init__(
        self,
        *,
        most: int,
        waiting: int,
        at_once: int,
        weigh: Callable[[T], int] | None = None,
        heaviest: int = 1,
    ) -> None:
        if min(most, waiting, at_once, heaviest) < 1:
            raise ValueError(
                "the bounds of rounds (most, waiting, at_once, heaviest) must be at least 1"
            )
        self._weigh = weigh
        self._heaviest = heaviest
        self._most = most
        self._limit = waiting
        self._at_once = at_once
        self._queue: deque[tuple[K, T]] = deque()
        self._busy: set[K] = set()
        self._parked: dict[K, deque[T]] = {}  # came while their key was in flight
        self._parked_count = 0
        self.in_flight = 0

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._queue) + self._parked_count

    def offer(self, key: K, item: T) -> bool:
        """Let `item` wait; False when the bound is reached and it was not taken in."""
        if len(self._queue) + self._parked_count >= self._limit:
            return False
        self._queue.append((key, item))
        return True

    def take(self, wanted: Callable[[T], bool]) -> list[tuple[K, T]]:
        """The next round, or nothing when nothing may start. Items that nobody wants any more
        are forgotten on the way. Hand the round back by `done`."""
        taken: list[tuple[K, T]] = []
        if self.in_flight >= self._at_once:
            return taken
        queue, busy, most = self._queue, self._busy, self._most
        weigh, weight = self._weigh, 0
        while queue and len(taken) < most:
            entry = queue.popleft()
            key, item = entry
            if not wanted(item):
                continue
            if key in busy:
                self._parked.setdefault(key, deque()).append(item)
                self._parked_count += 1
                continue
            if weigh is not None and (more := weigh(item)):
                if weight and weight + more > self._heaviest:
                    queue.appendleft(entry)
                    break
                weight += more
            busy.add(key)
            taken.append(entry)
        if taken:
            self.in_flight += 1
        return taken

    def done(self, taken: list[tuple[K, T]], again: list[tuple[K, T]] | None = None) -> None:
        """A round is over. Its items in `again` wait once more, ahead of all others and of those
        of the same key that came later; the bound counted them before and doesn't turn them
        away."""
        self.in_flight -= 1
        front: list[tuple[K, T]] = list(again or ())
        for key, _ in taken:
            self._busy.discard(key)
            if self._parked:
                parked = self._parked.pop(key, None)
                if parked is not None:
                    self._parked_count -= len(parked)
                    front.extend((key, item) for item in parked)
        self._queue.extendleft(reversed(front))

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out, and return, the waiting items that `unwanted` picks."""
        removed: list[T] = []
        kept: deque[tuple[K, T]] = deque()
        for entry in self._queue:
            if unwanted(entry[1]):
                removed.append(entry[1])
            else:
                kept.append(entry)
        self._queue = kept
        for key, items in list(self._parked.items()):
            stay: deque[T] = deque()
            for item in items:
                (removed if unwanted(item) else stay).append(item)
            self._parked_count -= len(items) - len(stay)
            if stay:
                self._parked[key] = stay
            else:
                del self._parked[key]
        return removed
