"""Answers that were broken off, until their workers say what was computed of them. Until then, and
for ever if a worker says nothing, their tenants are charged what was estimated.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from actors.contracts import Usage

KEEP_S: Final = 10.0
BOUND: Final = 8192


class BrokenOff(NamedTuple):
    """An answer that was charged so many tokens of a tenant's; only a worker of `node` can say what
    was computed of it."""

    tenant_id: str
    charged: int
    node: str


class ComputedUsage:
    """The newest `BOUND` of them, and as many words that came before the end they belong to."""

    def __init__(self) -> None:
        self._expected: OrderedDict[str, tuple[float, BrokenOff]] = OrderedDict()
        self._early: OrderedDict[str, tuple[float, str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expected) + len(self._early)

    def expect(self, job_id: str, broken: BrokenOff, now: float) -> int:
        """It was broken off; how many more tokens than charged were used (negative: fewer), as far
        as its worker has said so already, else 0."""
        early = self._early.pop(job_id, None)
        if early is not None and early[1] == broken.node:
            return early[2] - broken.charged
        self._expected[job_id] = (now + KEEP_S, broken)
        if len(self._expected) > BOUND:
            self._expected.popitem(last=False)
        return 0

    def heard(self, job_id: str, usage: Usage, node: str, now: float) -> tuple[str, int] | None:
        """A worker of `node` says so: the tenant, and how many more tokens than charged; None where
        that isn't awaited, not yet, or not of that node."""
        used = max(0, usage.prompt_tokens) + max(0, usage.completion_tokens)
        found = self._expected.get(job_id)
        if found is None:
            self._early[job_id] = (now + KEEP_S, node, used)
            if len(self._early) > BOUND:
                self._early.popitem(last=False)
            return None
        broken = found[1]
        if broken.node != node:
            return None
        del self._expected[job_id]
        return broken.tenant_id, used - broken.charged

    def sweep(self, now: float) -> None:
        """Forget what is old."""
        while self._expected and next(iter(self._expected.values()))[0] <= now:
            self._expected.popitem(last=False)
        while self._early and next(iter(self._early.values()))[0] <= now:
            self._early.popitem(last=False)
