"""Counts of a tenant's running requests, for models whose policy bounds them."""

from __future__ import annotations

from collections import Counter

from actors.contracts import ModelCard
from supervision.errors import RateLimited


class ModelConcurrency:
    """Counts by tenant and version. Holds nothing else, so sessions bound it."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._running)

    def enter(self, tenant_id: str, card: ModelCard, *, resumed: bool = False) -> None:
        """Count one; `leave` must follow. A `resumed` one was let in before.

        Raises:
            RateLimited: the policy's bound is reached; nothing was counted.
        """
        most = card.policy.concurrency
        if not most:
            return
        key = tenant_id, card.ref
        if self._running[key] >= most and not resumed:
            raise RateLimited(
                f"{most} of your requests run on {card.ref}, and no more may at once; wait for one "
                "to end",
                retry_after_s=1.0,
            )
        self._running[key] += 1

    def leave(self, tenant_id: str, card: ModelCard) -> None:
        """One has ended."""
        key = tenant_id, card.ref
        if card.policy.concurrency and self._running[key] > 1:
            self._running[key] -= 1
        else:
            self._running.pop(key, None)
