"""Bugs to plant: each must be found. A bug is what to replace: (owner, name, replacement)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from actors.contracts import JobState, Reserve, Settle
from actors.core.journal import Journal
from actors.scheduler.breaker_overrides import BreakerOverrides
from actors.stores.verdict import Verdict
from actors.worker.model_state import ModelPhase, ModelState
from actors.worker.room import Room
from actors.worker.slot_limiter import QuotaGuard
from bench.simulation.ledger import Job, Ledger
from supervision.child_state import ChildState
from supervision.children import Children
from supervision.policies import Breaker

Patch = tuple[Any, str, Any]


def lost_release() -> list[Patch]:
    """A run that waited for its slot gives back none."""
    leave = QuotaGuard.leave

    def forgetful(self: QuotaGuard[Any]) -> Any:
        if self.running == self.slots and not self.queued:
            return None
        return leave(self)

    return [(QuotaGuard, "leave", forgetful)]


def double_settle() -> list[Patch]:
    """A settle looks at the fencing token, and not at whether the job is closed already."""

    def open_for(self: Ledger, m: Settle, job: Job) -> bool:
        return job.fencing_token == m.fencing_token

    return [(Ledger, "open_for", open_for)]


def stale_breaker() -> list[Patch]:
    """A new worker inherits the breaker of the one that died in its place."""

    def renew(self: Breaker, now: float) -> None:
        pass

    return [(Breaker, "renew", renew)]


def replayed_exit() -> list[Patch]:
    """An exit counts whatever generation it is of."""

    def member(self: Children, id: str, generation: int) -> ChildState | None:
        return self._members.get(id)

    return [(Children, "member", member)]


def reordered_chunk() -> list[Patch]:
    """A journal appends what comes, wherever it belongs."""
    add = Journal.add

    def anywhere(
        self: Journal, token_ids: tuple[int, ...], text: str, seq: int | None = None
    ) -> bool:
        return add(self, token_ids, text)

    return [(Journal, "add", anywhere)]


def duplicate_dispatch() -> list[Patch]:
    """What runs already is given to a second worker, under the fencing token of the first."""
    contest = Ledger.contest

    def careless(self: Ledger, m: Reserve, held: Job) -> Verdict:
        verdict = contest(self, m, held)
        if verdict.state is not JobState.RUNNING or not m.worker_id:
            return verdict
        self.leases.pop(held.id, None)
        return Verdict.GIVE

    def same(self: Ledger, job: Job) -> int:
        return job.fencing_token

    return [(Ledger, "contest", careless), (Ledger, "next_token", same)]


def given_twice() -> list[Patch]:
    """A retry token that was answered is given away again."""
    contest = Ledger.contest

    def generous(self: Ledger, m: Reserve, held: Job) -> Verdict:
        verdict = contest(self, m, held)
        return Verdict.GIVE if verdict is Verdict.COMPLETED else verdict

    return [(Ledger, "contest", generous)]


def forgotten_word() -> list[Patch]:
    """A scheduler that restarts doesn't ask what operators have said of breakers."""

    async def recall(self: BreakerOverrides) -> None:
        pass

    return [(BreakerOverrides, "recall", recall)]


def hasty_eviction() -> list[Patch]:
    """A model that answers makes way for another one."""

    def idle(self: Room) -> Iterator[ModelState]:
        return (m for m in self._models.values() if m.phase is ModelPhase.WARM and not m.pinned)

    return [(Room, "idle", idle)]


BUGS: dict[str, Callable[[], list[Patch]]] = {
    "lost-release": lost_release,
    "double-settle": double_settle,
    "stale-breaker": stale_breaker,
    "replayed-exit": replayed_exit,
    "reordered-chunk": reordered_chunk,
    "duplicate-dispatch": duplicate_dispatch,
    "given-twice": given_twice,
    "forgotten-word": forgotten_word,
    "hasty-eviction": hasty_eviction,
}
