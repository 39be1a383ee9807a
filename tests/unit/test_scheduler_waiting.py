from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.contracts import Slo
from actors.scheduler.fairqueue import QueueFull
from actors.scheduler.waiting import AGE_S, SECOND_CHANCE_S, Gone, Waiter, WaitingRoom


def waiter(
    job_id: str,
    *,
    model: str = "m@1",
    tenant: str = "acme",
    avoid: tuple[str, ...] = (),
    since: float = 0.0,
    deadline: float = 60.0,
    key: str = "",
    slo: Slo = Slo.STANDARD,
) -> Waiter[None]:
    return Waiter(
        job_id=job_id,
        tenant_id=tenant,
        model_ref=model,
        avoid=avoid,
        since=since,
        deadline=deadline,
        call=None,
        key=key,
        slo=slo,
    )


def seats(*free: str) -> Callable[[tuple[str, ...]], str | None]:
    """Chooses the first free seat that isn't avoided, and takes it."""
    left = list(free)

    def choose(avoid: tuple[str, ...]) -> str | None:
        for seat in left:
            if seat not in avoid:
                left.remove(seat)
                return seat
        return None

    return choose


def served(room: WaitingRoom[None], *free: str, model: str = "m@1") -> list[tuple[str, str]]:
    return [(w.job_id, seat) for w, seat in room.serve(model, seats(*free))]


def test_as_many_as_there_are_seats_in_order() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    for job in "abc":
        room.push(waiter(job))
    assert served(room, "w1", "w2") == [("a", "w1"), ("b", "w2")]
    assert len(room) == 1
    assert served(room, "w1") == [("c", "w1")]
    assert not room.waits_for("m@1")
    assert not tuple(room.models)


def test_a_model_without_seats_does_not_hold_up_another() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    room.push(waiter("a", model="busy@1"))
    room.push(waiter("b", model="free@1"))
    assert served(room, model="busy@1") == []
    assert served(room, "w1", model="free@1") == [("b", "w1")]


def test_who_was_reading_goes_first_and_nobody_waits_behind_what_it_avoids() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    room.push(waiter("new"))
    room.push(waiter("again", avoid=("w1",)))
    assert served(room, "w1") == [("new", "w1")]
    room.push(waiter("new2"))
    assert served(room, "w2") == [("again", "w2")]


def test_after_a_moment_the_avoided_worker_is_better_than_none() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    room.push(waiter("again", avoid=("w1",)))
    assert room.sweep(SECOND_CHANCE_S / 2, lambda _: True) == []
    assert served(room, "w1") == []
    assert room.sweep(SECOND_CHANCE_S, lambda _: True) == []
    assert served(room, "w1") == [("again", "w1")]


def test_the_bound_counts_all_models() -> None:
    room: WaitingRoom[None] = WaitingRoom(2, 15.0)
    room.push(waiter("a", model="x"))
    room.push(waiter("b", model="y", avoid=("w",)))
    with pytest.raises(QueueFull):
        room.push(waiter("c"))
    assert room.remove("b") is not None
    assert room.remove("b") is None
    room.push(waiter("c"))
    with pytest.raises(QueueFull):
        room.push(waiter("c"))


def test_no_ask_waits_twice() -> None:
    room: WaitingRoom[None] = WaitingRoom(5, 15.0)
    room.push(waiter("a"))
    with pytest.raises(ValueError, match="waits already"):
        room.push(waiter("a"))


def test_one_job_may_be_asked_for_by_who_is_gone_and_by_who_follows() -> None:
    room: WaitingRoom[None] = WaitingRoom(5, 15.0)
    room.push(waiter("a", key="a 1"))
    room.push(waiter("a", avoid=("w9",), key="a 2"))
    assert len(room) == 2
    gone = room.remove("a 1")
    assert gone is not None
    assert (gone.job_id, len(room)) == ("a", 1)
    assert [w.key for w, _ in room.serve("m@1", seats("w1", "w2"))] == ["a 2"]
    assert not room


def test_deadlines_and_models_that_nobody_serves() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, patience_s=15.0)
    room.push(waiter("late", model="served", deadline=5.0))
    room.push(waiter("patient", model="served"))
    room.push(waiter("alone", model="unserved"))
    room.push(waiter("hurried", model="unserved", deadline=3.0))

    def serves(model: str) -> bool:
        return model == "served"

    assert room.sweep(0.0, serves) == []
    gone = [(w.job_id, why) for w, why in room.sweep(5.0, serves)]
    assert gone == [("late", Gone.LATE), ("hurried", Gone.LATE)]
    assert room.sweep(14.9, serves) == []
    assert [(w.job_id, why) for w, why in room.sweep(15.0, serves)] == [("alone", Gone.UNSERVED)]
    assert len(room) == 1


def test_patience_starts_anew_when_a_worker_was_there() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, patience_s=15.0)
    room.push(waiter("a"))
    room.sweep(0.0, lambda _: False)
    room.sweep(14.0, lambda _: True)
    assert room.sweep(16.0, lambda _: False) == []
    assert room.sweep(30.9, lambda _: False) == []
    assert len(room.sweep(31.0, lambda _: False)) == 1


def in_turn(room: WaitingRoom[None], *free: str) -> list[str]:
    """Who gets these seats, which suit all models."""
    choose = seats(*free)
    return [w.job_id for w, _ in room.serve_all(lambda model, avoid: choose(avoid))]


def test_of_several_models_the_better_class_goes_first() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    room.push(waiter("b", model="b", slo=Slo.BATCH))
    room.push(waiter("s", model="s", since=1.0))
    room.push(waiter("i", model="i", since=2.0, slo=Slo.INTERACTIVE))
    assert in_turn(room, "w1") == ["i"]
    assert in_turn(room, "w1", "w2") == ["s", "b"]


def test_who_has_waited_long_enough_goes_before_a_better_class() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    room.push(waiter("b", model="b", slo=Slo.BATCH))
    for number, since in enumerate((2 * AGE_S - 1, 2 * AGE_S + 1)):
        room.push(waiter(f"i{number}", model="i", since=since, slo=Slo.INTERACTIVE))
    room.push(waiter("s0", model="s", since=AGE_S - 2))
    room.push(waiter("s1", model="s", since=AGE_S + 2))
    assert in_turn(room, *"12345") == ["s0", "i0", "b", "i1", "s1"]


def test_a_seat_that_suits_one_model_only_is_not_kept_from_it() -> None:
    room: WaitingRoom[None] = WaitingRoom(10, 15.0)
    room.push(waiter("i", model="i", slo=Slo.INTERACTIVE))
    room.push(waiter("again", model="b", slo=Slo.BATCH, avoid=("w1",)))
    room.push(waiter("b", model="b", slo=Slo.BATCH))
    choose = seats("w1")
    served = room.serve_all(lambda model, avoid: choose(avoid) if model == "b" else None)
    assert [w.job_id for w, _ in served] == ["b"]
    assert room.waited("i", 3.0) == 3.0
    assert room.waited("nobody", 3.0) == 0.0
    assert len(room) == 2
