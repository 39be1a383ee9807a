from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.scheduler.fairqueue import FairQueue, QueueFull


def filled(*entries: tuple[str, str], bound: int = 100) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(bound)
    for tenant, key in entries:
        queue.push(tenant, key, key, 10.0)
    return queue


def drain(queue: FairQueue[str]) -> list[str]:
    out = []
    while (entry := queue.pop()) is not None:
        out.append(entry)
    return out


def test_one_tenant_is_served_in_order() -> None:
    assert drain(filled(("a", "1"), ("a", "2"), ("a", "3"))) == ["1", "2", "3"]


def test_a_crowd_delays_another_tenant_by_one_entry_only() -> None:
    queue = filled(*[("crowd", f"c{n}") for n in range(50)], ("small", "s1"), ("small", "s2"))
    assert drain(queue)[:5] == ["c0", "s1", "c1", "s2", "c2"]


def test_the_bound_holds_and_no_key_waits_twice() -> None:
    queue = filled(("a", "1"), bound=2)
    with pytest.raises(ValueError, match="waits already"):
        queue.push("b", "1", "1", 1.0)
    queue.push("b", "2", "2", 1.0)
    with pytest.raises(QueueFull):
        queue.push("c", "3", "3", 1.0)
    assert queue.remove("1") == "1"
    queue.push("c", "3", "3", 1.0)


def test_expired_entries_leave() -> None:
    queue: FairQueue[str] = FairQueue(10)
    queue.push("a", "late", "late", 5.0)
    queue.push("a", "later", "later", 6.0)
    queue.push("b", "last", "last", 7.0)
    assert queue.expire(6.0) == ["late", "later"]
    assert drain(queue) == ["last"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.booleans())))
def test_everything_leaves_exactly_once(moves: list[tuple[str, int, bool]]) -> None:
    queue: FairQueue[str] = FairQueue(8)
    inside: set[str] = set()
    for tenant, number, push in moves:
        key = f"{number}"
        if push and key not in inside and len(inside) < 8:
            queue.push(tenant, key, key, 1.0)
            inside.add(key)
        elif not push:
            if number % 2:
                removed = queue.remove(key)
                assert (removed == key) == (key in inside)
                inside.discard(key)
            elif (popped := queue.pop()) is not None:
                inside.remove(popped)
        assert len(queue) == len(inside)
        assert {*queue} == inside
        assert (queue.peek() is None) == (not inside)
    assert {*drain(queue)} == inside
