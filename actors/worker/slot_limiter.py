"""The limit of a worker's slots: so many run, so many wait, the rest is sent away. Pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from supervision.errors import Overloaded
from supervision.policies import Bulkhead, BulkheadOptions

T = TypeVar("T")


class QuotaGuard(Generic[T]):
    """A bulkhead of runs, and a queue before it. The scheduler keeps within `slots` by itself; the
    queue takes in what two schedulers place at once, and stays short, for waiting is the
    scheduler's business.

    Raises:
        ValueError: a bound is out of its range.
    """

    def __init__(self, slots: int, queue: int) -> None:
        if slots < 1 or queue < 0:
            raise ValueError(f"slots is {slots}, queue is {queue}; at least 1 and 0 are needed")
        self.queue = queue
        self._bulkhead = Bulkhead(BulkheadOptions(at_once=slots))
        self._waiting: deque[T] = deque()

    @property
    def slots(self) -> int:
        return self._bulkhead.at_once

    @property
    def running(self) -> int:
        """Runs that have a slot."""
        return self._bulkhead.inside

    @property
    def queued(self) -> int:
        """Runs that wait for a slot."""
        return len(self._waiting)

    def admit(self, run: T) -> bool:
        """True: it may start. False: it waits, and `leave` of another hands it out.

        Raises:
            Overloaded: slots and queue are full.
        """
        if self._bulkhead.enter():
            return True
        if len(self._waiting) >= self.queue:
            raise Overloaded(
                f"all {self.slots} slots run and {len(self._waiting)} requests wait; "
                "try another worker",
                retry_after_s=0.5,
            )
        self._waiting.append(run)
        return False

    def leave(self) -> T | None:
        """A run gave up its slot; the one that gets it now, if one waits."""
        if self._waiting:
            return self._waiting.popleft()
        self._bulkhead.leave()
        return None

    def forget(self, run: T) -> bool:
        """A waiting run needs its slot no more; whether it waited."""
        try:
            self._waiting.remove(run)
        except ValueError:
            return False
        return True
