"""A fair queue for workers: bounded, in order within a tenant, tenants in turn.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """The queue's bound is reached."""


class FairQueue(Generic[T]):
    """Entries wait under a key (a job's id) in the lane of their tenant; `pop` goes round the
    lanes, so a tenant with a thousand entries delays another one's first by one entry only.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._lanes: OrderedDict[str, OrderedDict[str, tuple[T, float]]] = OrderedDict()
        self._lane_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._lane_of)

    def __contains__(self, key: str) -> bool:
        return key in self._lane_of

    def push(self, tenant_id: str, key: str, entry: T, deadline: float) -> None:
        """Let `entry` wait until `deadline` (a time on the caller's clock).

        Raises:
            QueueFull: `bound` entries wait already.
            ValueError: `key` waits already.
        """
        if len(self._lane_of) >= self.bound:
            raise QueueFull
        if key in self._lane_of:
            raise ValueError(f"{key} waits already")
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = OrderedDict()
        lane[key] = (entry, deadline)
        self._lane_of[key] = tenant_id

    def peek(self) -> T | None:
        """The entry whose turn it is."""
        for lane in self._lanes.values():
            return next(iter(lane.values()))[0]
        return None

    def pop(self) -> T | None:
        """Take the entry whose turn it is; its tenant goes to the end of the round."""
        for tenant_id, lane in self._lanes.items():
            key, (entry, _) = lane.popitem(last=False)
            del self._lane_of[key]
            if lane:
                self._lanes.move_to_end(tenant_id)
            else:
                del self._lanes[tenant_id]
            return entry
        return None

    def remove(self, key: str) -> T | None:
        """Take the entry under `key`, if it still waits."""
        tenant_id = self._lane_of.pop(key, None)
        if tenant_id is None:
            return None
        lane = self._lanes[tenant_id]
        entry, _ = lane.pop(key)
        if not lane:
            del self._lanes[tenant_id]
        return entry

    def expire(self, now: float) -> list[T]:
        """Take all entries whose deadline has passed."""
        late = [
            key
            for lane in self._lanes.values()
            for key, (_, deadline) in lane.items()
            if deadline <= now
        ]
        return [entry for key in late if (entry := self.remove(key)) is not None]

    def __iter__(self) -> Iterator[T]:
        for lane in self._lanes.values():
            for entry, _ in lane.values():
                yield entry
