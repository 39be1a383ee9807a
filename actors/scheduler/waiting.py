"""Requests for which no worker is free: one fair queue per model, with one bound for all.

Where queues of several models wait for the same seat, the one goes first whose next request came
first, counted from `AGE_S` later for each class of service below the best: an interactive request
goes before standard ones that have waited less than `AGE_S`, and before batch ones that have waited
less than twice that; and nothing that came `2 * AGE_S` after a batch request passes it over.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from functools import partial
from typing import Final, Generic, TypeVar

from actors.contracts import Slo
from actors.scheduler.fairqueue import FairQueue, QueueFull

S = TypeVar("S")
F = TypeVar("F")

SECOND_CHANCE_S = 0.25
AGE_S: Final = 10.0
_CLASSES: Final[dict[Slo, int]] = {Slo.INTERACTIVE: 0, Slo.STANDARD: 1, Slo.BATCH: 2}


class Waiter(Generic[F]):
    """A request that waits. `avoid` are workers it doesn't want again, `call` is whatever the
    shell needs to wake it. `key` tells it from others for the same job: a gateway that is gone
    may wait still when the one that follows asks."""

    __slots__ = (
        "avoid",
        "call",
        "deadline",
        "job_id",
        "key",
        "model_ref",
        "since",
        "slo",
        "tenant_id",
    )

    def __init__(
        self,
        *,
        job_id: str,
        tenant_id: str,
        model_ref: str,
        avoid: tuple[str, ...],
        since: float,
        deadline: float,
        call: F,
        key: str = "",
        slo: Slo = Slo.STANDARD,
    ) -> None:
        self.job_id = job_id
        self.key = key or job_id
        self.tenant_id = tenant_id
        self.model_ref = model_ref
        self.avoid = avoid
        self.since = since
        self.deadline = deadline
        self.call = call
        self.slo = slo


class Gone(Enum):
    """Why a waiter was sent away."""

    LATE = auto()  # its deadline passed while all workers were busy
    UNSERVED = auto()  # no worker for its model was there for too long


class _Lane(Generic[F]):
    __slots__ = ("again", "queue", "unserved_since")

    def __init__(self, bound: int) -> None:
        self.queue: FairQueue[Waiter[F]] = FairQueue(bound)
        self.again: dict[str, Waiter[F]] = {}
        self.unserved_since: float | None = None


class WaitingRoom(Generic[F]):
    """Who waits, by model. Those that broke off elsewhere go before those that have not begun,
    for a client is already reading.

    What a waiter avoids is avoided for `SECOND_CHANCE_S`; if nobody else came by then, a worker
    that is still alive is better than none.

    Args:
        bound: waiters of all models.
        patience_s: how long a model may have no worker at all; workers do restart.
    """

    def __init__(self, bound: int, patience_s: float) -> None:
        self.bound = bound
        self._patience_s = patience_s
        self._lanes: dict[str, _Lane[F]] = {}
        self._model_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._model_of)

    @property
    def models(self) -> Iterable[str]:
        """The models that somebody waits for."""
        return tuple(self._lanes)

    def waits_for(self, model_ref: str) -> bool:
        """Does anybody wait for this model?"""
        return model_ref in self._lanes

    def push(self, waiter: Waiter[F]) -> None:
        """
        Raises:
            QueueFull: the bound is reached.
            ValueError: one of this key waits already.
        """
        if len(self._model_of) >= self.bound:
            raise QueueFull
        if waiter.key in self._model_of:
            raise ValueError(f"{waiter.key} waits already")
        lane = self._lanes.get(waiter.model_ref)
        if lane is None:
            lane = self._lanes[waiter.model_ref] = _Lane(self.bound)
        if waiter.avoid:
            lane.again[waiter.key] = waiter
        else:
            lane.queue.push(waiter.tenant_id, waiter.key, waiter, waiter.deadline)
        self._model_of[waiter.key] = waiter.model_ref

    def remove(self, key: str) -> Waiter[F] | None:
        """Take it out, if it waits."""
        model_ref = self._model_of.pop(key, None)
        if model_ref is None:
            return None
        lane = self._lanes[model_ref]
        waiter = lane.again.pop(key, None) or lane.queue.remove(key)
        self._tidy(model_ref, lane)
        return waiter

    def waited(self, model_ref: str, now: float) -> float:
        """How long the next one of this model waits already; 0 if nobody does."""
        lane = self._lanes.get(model_ref)
        return 0.0 if lane is None else now - _next(lane).since

    def serve(
        self, model_ref: str, choose: Callable[[tuple[str, ...]], S | None]
    ) -> Iterator[tuple[Waiter[F], S]]:
        """Take out waiters of a model as long as `choose(avoid)` finds a seat for them."""
        while (served := self._serve_one(model_ref, choose)) is not None:
            yield served

    def serve_all(
        self, choose: Callable[[str, tuple[str, ...]], S | None]
    ) -> Iterator[tuple[Waiter[F], S]]:
        """Take out waiters of all models as long as `choose(model_ref, avoid)` finds seats, in the
        order that the module describes."""
        lanes = dict(self._lanes)
        while lanes:
            model_ref = min(lanes, key=lambda ref: _due(lanes[ref]))
            served = self._serve_one(model_ref, partial(choose, model_ref))
            if served is not None:
                yield served
            if served is None or model_ref not in self._lanes:
                del lanes[model_ref]

    def _serve_one(
        self, model_ref: str, choose: Callable[[tuple[str, ...]], S | None]
    ) -> tuple[Waiter[F], S] | None:
        lane = self._lanes.get(model_ref)
        if lane is None:
            return None
        for waiter in list(lane.again.values()):
            seat = choose(waiter.avoid)
            if seat is not None:
                self.remove(waiter.key)
                return waiter, seat
        if not lane.queue or (seat := choose(())) is None:
            return None
        next_ = lane.queue.pop()
        assert next_ is not None
        del self._model_of[next_.key]
        self._tidy(model_ref, lane)
        return next_, seat

    def sweep(self, now: float, serves: Callable[[str], bool]) -> list[tuple[Waiter[F], Gone]]:
        """Take out those who have waited in vain."""
        gone: list[tuple[Waiter[F], Gone]] = []
        for model_ref, lane in list(self._lanes.items()):
            if serves(model_ref):
                lane.unserved_since = None
            elif lane.unserved_since is None:
                lane.unserved_since = now
            waiters = [*lane.again.values(), *lane.queue]
            in_vain = (
                lane.unserved_since is not None and now - lane.unserved_since >= self._patience_s
            )
            for waiter in waiters:
                if in_vain:
                    gone.append((waiter, Gone.UNSERVED))
                elif waiter.deadline <= now:
                    gone.append((waiter, Gone.LATE))
                elif waiter.avoid and now - waiter.since >= SECOND_CHANCE_S:
                    waiter.avoid = ()
        for waiter, _ in gone:
            self.remove(waiter.key)
        return gone

    def _tidy(self, model_ref: str, lane: _Lane[F]) -> None:
        if not lane.queue and not lane.again:
            self._lanes.pop(model_ref, None)


def _next(lane: _Lane[F]) -> Waiter[F]:
    """Whose turn it is; there is one."""
    for waiter in lane.again.values():
        return waiter
    first = lane.queue.peek()
    assert first is not None
    return first


def _due(lane: _Lane[F]) -> float:
    waiter = _next(lane)
    return waiter.since + AGE_S * _CLASSES[waiter.slo]
