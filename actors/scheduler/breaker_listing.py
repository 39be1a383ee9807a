"""Breakers as operators see and set them."""

from __future__ import annotations

import math
from collections.abc import Container

from actors.contracts import BreakerState, BreakerStates, SetBreaker
from actors.scheduler import metrics
from actors.scheduler.worker_breakers import ALL, WorkerBreakers
from supervision.errors import BadRequest
from supervision.policies import Breaker, Mode, State
from supervision.telemetry import bounds

FIGURES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
MODES = {Mode.FORCED_OPEN: 3, Mode.DISABLED: 4}


class BreakerListing:
    """The breakers of a scheduler, as contracts and as a gauge; by worker id and model.

    Args:
        workers: the ids of those that are known; they may have no breaker yet.
    """

    def __init__(self, breakers: WorkerBreakers, workers: Container[str] = ()) -> None:
        self._breakers = breakers
        self._workers = workers
        self._published: dict[tuple[str, str], int] = {}
        self._used = bounds.used.labels("scheduler_breakers")

    def states(self, now: float) -> BreakerStates:
        """All, sorted."""
        found = sorted(self._breakers, key=lambda entry: entry[0])
        return BreakerStates(
            breakers=tuple(_state(*key, b, now) for key, b in found),
            workers=tuple(
                BreakerState(worker_id=key[0], model_ref=ALL, mode=mode, state="")
                for key, mode in sorted(self._breakers.words.items())
                if key[1] == ALL
            ),
        )

    def set(self, msg: SetBreaker, now: float) -> BreakerStates:
        """
        Raises:
            BadRequest: there is no such mode, worker or breaker.
            Overloaded: too many are set.
        """
        try:
            mode = Mode(msg.mode)
        except ValueError:
            raise BadRequest(
                f"a breaker has no mode {msg.mode!r}; it is one of {', '.join(Mode)}", param="mode"
            ) from None
        chosen = [
            (key, breaker)
            for key, breaker in self._breakers
            if key[0] == msg.worker_id and msg.model_ref in (ALL, key[1])
        ]
        about_all = msg.model_ref == ALL and (
            msg.worker_id in self._workers or (msg.worker_id, ALL) in self._breakers.words
        )
        if not chosen and not about_all:
            raise BadRequest(
                f"there is no breaker of worker {msg.worker_id!r}"
                + (f" and model {msg.model_ref!r}" if msg.model_ref else "")
                + "; list them first",
                param="worker_id",
            )
        self._breakers.say(msg.worker_id, msg.model_ref, mode, now)
        return BreakerStates(
            breakers=tuple(_state(*key, breaker, now) for key, breaker in sorted(chosen, key=_key))
        )

    def publish(self) -> None:
        """To the gauge, what has changed."""
        self._used.set(len(self._breakers))
        published = self._published
        for key, breaker in self._breakers:
            figure = MODES.get(breaker.mode)
            figure = FIGURES[breaker.state] if figure is None else figure
            if published.get(key) != figure:
                published[key] = figure
                metrics.breaker_state.labels(*key).set(figure)
        if len(published) > len(self._breakers):
            for key in [key for key in published if key not in self._breakers]:
                del published[key]
                metrics.breaker_state.labels(*key).set(0)


def _key(entry: tuple[tuple[str, str], Breaker]) -> tuple[str, str]:
    return entry[0]


def _state(worker_id: str, model_ref: str, breaker: Breaker, now: float) -> BreakerState:
    calls, failed = breaker.counts(now)
    until = breaker.until(now)
    return BreakerState(
        worker_id=worker_id,
        model_ref=model_ref,
        mode=breaker.mode,
        state=breaker.state,
        calls=calls,
        failed=failed,
        until_s=-1.0 if until == math.inf else until - now,
    )
