"""Rounds: every item exactly once, in order, never a key twice in flight, within the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.stores.rounds import Rounds
from tests.support.properties import examples


def everyone(_: int) -> bool:
    return True


def rounds(most: int = 4, waiting: int = 100, at_once: int = 2) -> Rounds[str, int]:
    return Rounds(most=most, waiting=waiting, at_once=at_once)


def test_the_first_item_leaves_at_once_and_those_after_it_form_the_next_round() -> None:
    r = rounds(at_once=1)
    r.offer("a", 1)
    first = r.take(everyone)
    assert first == [("a", 1)]
    for n, key in enumerate("bcdef", 2):
        r.offer(key, n)
    assert r.take(everyone) == []  # one round at once
    r.done(first)
    assert [item for _, item in r.take(everyone)] == [2, 3, 4, 5]  # and no more than `most`
    assert len(r) == 1


def test_heavy_items_share_a_round_up_to_its_weight() -> None:
    r: Rounds[str, int] = Rounds(most=9, waiting=9, at_once=1, weigh=lambda n: n, heaviest=10)
    for key, item in zip("abcdef", (0, 6, 4, 0, 1, 50), strict=True):
        r.offer(key, item)
    taken = []
    while more := r.take(everyone):
        taken.append([item for _, item in more])
        r.done(more)
    assert taken == [[0, 6, 4, 0], [1], [50]], "in order, and one that is heavier goes alone"


def test_the_bound_counts_all_that_wait_and_nothing_in_flight() -> None:
    r = rounds(waiting=2)
    assert r.offer("a", 1)
    r.take(everyone)
    assert r.offer("a", 2)
    assert r.offer("b", 3)
    assert not r.offer("c", 4)
    assert r.take(everyone) == [("b", 3)]  # the second "a" is parked, and still counts
    assert r.offer("c", 4)
    assert not r.offer("d", 5)


def test_a_key_waits_for_its_own_round_and_then_goes_first() -> None:
    r = rounds()
    r.offer("a", 1)
    r.offer("a", 2)
    r.offer("b", 3)
    first = r.take(everyone)
    assert first == [("a", 1), ("b", 3)]
    r.offer("c", 4)
    r.done(first)
    assert r.take(everyone) == [("a", 2), ("c", 4)]


def test_what_failed_goes_before_what_came_later_for_the_same_key() -> None:
    r = rounds()
    r.offer("a", 1)
    first = r.take(everyone)
    r.offer("a", 2)
    assert r.take(everyone) == []
    r.done(first, first)
    second = r.take(everyone)
    assert second == [("a", 1)]
    r.take(everyone)
    r.done(second)
    assert r.take(everyone) == [("a", 2)]


def test_who_is_not_wanted_any_more_is_forgotten() -> None:
    r = rounds()
    for n in range(4):
        r.offer(str(n), n)
    assert [i for _, i in r.take(lambda item: item % 2 == 1)] == [1, 3]
    assert len(r) == 0


def test_remove_finds_those_that_are_parked_too() -> None:
    r = rounds()
    r.offer("a", 1)
    taken = r.take(everyone)
    r.offer("a", 2)
    r.offer("a", 3)
    r.offer("b", 4)
    r.take(everyone)
    r.offer("c", 5)
    assert sorted(r.remove(lambda item: item in (2, 5))) == [2, 5]
    assert len(r) == 1
    r.done(taken)
    assert r.take(everyone) == [("a", 3)]


@pytest.mark.parametrize("wrong", ["most", "waiting", "at_once"])
def test_bounds_are_at_least_one(wrong: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Rounds(**{"most": 1, "waiting": 1, "at_once": 1, wrong: 0})


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 4)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("done"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.integers(0, 4)),
    ),
    max_size=60,
)


@settings(max_examples=examples(300), deadline=None)
@given(steps=STEPS, most=st.integers(1, 4), waiting=st.integers(1, 8), at_once=st.integers(1, 3))
def test_every_item_is_answered_once_in_the_order_of_its_key(
    steps: list[tuple[str, int]], most: int, waiting: int, at_once: int
) -> None:
    r: Rounds[int, int] = Rounds(most=most, waiting=waiting, at_once=at_once)
    flying: list[list[tuple[int, int]]] = []
    accepted: dict[int, list[int]] = {}
    finished: dict[int, list[int]] = {}
    removed: set[int] = set()
    number = 0

    def take() -> None:
        taken = r.take(lambda _: True)
        assert len(taken) <= most
        if taken:
            flying.append(taken)
        assert len(flying) <= at_once
        keys = [key for one in flying for key, _ in one]
        assert len(keys) == len(set(keys))  # no key twice, not even over two rounds

    def finish(n: int) -> None:
        done = flying.pop(n)
        for key, item in done:
            finished.setdefault(key, []).append(item)
        r.done(done)

    for step, n in steps:
        if step == "offer":
            before = len(r)
            if r.offer(n, number):
                assert before < waiting
                accepted.setdefault(n, []).append(number)
            else:
                assert before >= waiting
            number += 1
        elif step == "take":
            take()
        elif step == "done" and n < len(flying):
            finish(n)
        elif step == "fail" and n < len(flying):
            failed = flying.pop(n)
            r.done(failed, failed)
        elif step == "remove":
            removed.update(r.remove(lambda item, n=n: item % 5 == n))
    for _ in range(2 * number + 1):
        take()
        while flying:
            finish(0)
    assert len(r) == 0
    assert r.in_flight == 0
    for key, items in accepted.items():
        assert finished.get(key, []) == [item for item in items if item not in removed]
