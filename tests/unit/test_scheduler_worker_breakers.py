"""What operators say of workers and of their models, in any order, before and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import BreakerState, BreakerStates, SetBreaker
from actors.contracts.operating import KeepBreakers
from actors.scheduler.breaker_overrides import BreakerOverrides
from actors.scheduler.worker_breakers import ALL, WorkerBreakers
from supervision.errors import Overloaded, Unavailable
from supervision.policies import Ended, Mode

WORKERS, MODELS = ("w1", "w2"), ("a@1", "b@1")
KEYS = [(worker, model) for worker in WORKERS for model in MODELS]
said = st.tuples(st.sampled_from(WORKERS), st.sampled_from((ALL, *MODELS)), st.sampled_from(Mode))


def test_a_word_about_a_worker_holds_for_a_model_that_it_loads_later() -> None:
    breakers = WorkerBreakers()
    early = breakers.of(("w1", "a@1"))
    breakers.say("w1", ALL, Mode.FORCED_OPEN, 1.0)
    late = breakers.of(("w1", "b@1"))
    assert not early.passes(9.0)
    assert not late.passes(9.0)
    assert breakers.of(("w2", "b@1")).passing
    late.renew(2.0)
    assert late.mode is Mode.FORCED_OPEN, "a new start of the worker is told the same"
    breakers.say("w1", "b@1", Mode.AUTOMATIC, 3.0)
    assert late.passing
    assert not early.passing
    breakers.say("w1", ALL, Mode.AUTOMATIC, 4.0)
    assert early.passing
    assert breakers.words == {}


def test_words_are_bounded_and_a_needless_one_is_none() -> None:
    breakers = WorkerBreakers(bound=2)
    breakers.say("w1", ALL, Mode.DISABLED, 0.0)
    breakers.say("w1", "a@1", Mode.AUTOMATIC, 0.0)
    breakers.say("w2", ALL, Mode.AUTOMATIC, 0.0)
    with pytest.raises(Overloaded, match="set 2 breakers"):
        breakers.say("w2", ALL, Mode.DISABLED, 0.0)
    breakers.say("w1", ALL, Mode.FORCED_OPEN, 0.0)
    breakers.say("w2", ALL, Mode.DISABLED, 0.0)
    assert set(breakers.words) == {("w1", ALL), ("w2", ALL)}


def test_an_open_breaker_stays_open_while_others_are_set() -> None:
    breakers = WorkerBreakers()
    broken = breakers.of(("w1", "a@1"))
    for _ in range(10):
        broken.leave(broken.enter(1.0), Ended.FAILED, 1.0)
    breakers.say("w1", "b@1", Mode.FORCED_OPEN, 1.0)
    breakers.say("w2", ALL, Mode.DISABLED, 1.0)
    assert not broken.passes(1.0)


class Reservation:
    """Keeps words as `actors.stores.breakers` does, over the restarts of schedulers."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], str] = {}
        self.away = False

    async def ask(self, _: object, ask: KeepBreakers, timeout: float) -> BreakerStates:
        if self.away:
            raise Unavailable("away")
        for state in ask.breakers:
            key = state.worker_id, state.model_ref
            for row in [row for row in self.rows if not key[1] and row[0] == key[0]]:
                del self.rows[row]
            self.rows.pop(key, None)
            if state.mode != "automatic" or (key[1] and (key[0], ALL) in self.rows):
                self.rows[key] = state.mode
        return BreakerStates(
            breakers=tuple(
                BreakerState(worker_id=w, model_ref=m, mode=mode, state="")
                for (w, m), mode in self.rows.items()
            )
        )


class Actor:
    """As much of a scheduler as `BreakerOverrides` uses; `later` is its background work."""

    def __init__(self, reservation: Reservation) -> None:
        self.needs = {"reservation": ""}
        self.ask = reservation.ask
        self.loop = SimpleNamespace(time=lambda: 0.0)
        self.later: list[Coroutine[Any, Any, None]] = []

    def background(self, work: Coroutine[Any, Any, None], *, name: str) -> Any:
        self.later.append(work)
        return SimpleNamespace(done=lambda: False)

    def close(self) -> None:
        for work in self.later:
            work.close()


@given(st.lists(st.tuples(said, st.booleans()), max_size=8), st.booleans())
def test_the_last_word_holds_over_restarts(
    words: list[tuple[tuple[str, str, Mode], bool]], late: bool
) -> None:
    """`late`: the scheduler starts while reservation is away, and hears of the first half of the
    words after the second one was said. Breakers are there from the beginning, or made at last."""

    async def one(monkey: pytest.MonkeyPatch) -> None:
        monkey.setattr("actors.scheduler.breaker_overrides.PAUSE_S", 0.0)
        expected = dict.fromkeys(KEYS, Mode.AUTOMATIC)
        reservation = Reservation()
        half = len(words) // 2
        for part in (words[:half], words[half:], []):
            breakers = WorkerBreakers()
            actor = Actor(reservation)
            kept = BreakerOverrides(actor, breakers)  # type: ignore[arg-type]
            reservation.away = late
            await kept.recall()
            for (worker, model, mode), made in part:
                for key in KEYS:
                    if made:
                        breakers.of(key)
                    if key[0] == worker and model in (ALL, key[1]):
                        expected[key] = mode
                breakers.say(worker, model, mode, 0.0)
                try:
                    await kept.keep(SetBreaker(worker_id=worker, model_ref=model, mode=mode))
                except Unavailable:
                    assert late
            reservation.away = False
            for work in actor.later:
                await work
            assert {key: breakers.of(key).mode for key in KEYS} == expected

    with pytest.MonkeyPatch.context() as monkey:
        asyncio.run(one(monkey))


async def test_a_word_is_written_down_though_whoever_said_it_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.scheduler.breaker_overrides.PAUSE_S", 0.0)
    reservation = Reservation()
    actor = Actor(reservation)
    kept = BreakerOverrides(actor, WorkerBreakers())  # type: ignore[arg-type]
    asked = asyncio.Event()

    async def hangs(*_: object, timeout: float) -> BreakerStates:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    actor.ask = hangs  # type: ignore[assignment]
    said = asyncio.create_task(kept.keep(SetBreaker(worker_id="w1", mode="disabled")))
    await asked.wait()
    said.cancel()
    with pytest.raises(asyncio.CancelledError):
        await said
    actor.ask = reservation.ask
    for work in actor.later:
        await work
    assert reservation.rows == {("w1", ALL): "disabled"}
