"""Permits of a tenant that several gateways have together, against a model of the store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.permits import SURE_S, Permits
from actors.stores.limit_orders import PermitOrder, PermitReply


class PermitStore:
    """As `limits.lua` counts them."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}

    def do(self, gateway: int, order: PermitOrder) -> PermitReply:
        others = sum(count for of, count in self.held.items() if of != gateway)
        mine = max(order.must, min(order.want, order.limit - others), 0)
        self.held[gateway] = mine
        return PermitReply(mine, others + mine)


def test_a_lone_gateway_asks_nobody() -> None:
    permits = Permits(2, 1)
    assert not permits.counted and not permits.short and not permits.full(0.0)
    permits.running = 2
    assert permits.full(0.0)


def test_in_the_upper_half_each_is_given_back_at_once() -> None:
    store, one, other = PermitStore(), Permits(100, 2), Permits(100, 2)
    other.replied(store.do(1, other.order(60)), 0.0)
    other.running = other.held
    one.replied(store.do(0, one.order(10)), 0.0)
    one.running = 10
    assert one.due  # it has asked for more than one may keep, as it turns out
    one.replied(store.do(0, one.order(0)), 0.0)
    assert one.held == 10 and not one.due
    one.running = 9
    assert one.due
    one.replied(store.do(0, one.order(0)), 0.0)
    assert one.held == 9


def test_far_below_the_limit_a_few_are_kept() -> None:
    store, one = PermitStore(), Permits(100, 2)
    one.replied(store.do(0, one.order(10)), 0.0)
    one.running = 10
    one.running = 6
    assert one.held == 16 and one.due
    one.running = 10
    assert not one.due
    one.replied(store.do(0, one.order(0, keep=False)), 0.0)
    assert one.held == 10


def test_a_store_without_one_is_believed_for_a_moment() -> None:
    store, one, other = PermitStore(), Permits(1, 2), Permits(1, 2)
    other.replied(store.do(1, other.order(1)), 0.0)
    one.replied(store.do(0, one.order(1)), 0.0)
    assert one.full(0.0)
    assert not one.full(2 * SURE_S) and one.short


def test_without_the_store_each_has_its_part_or_what_it_held() -> None:
    one = Permits(9, 3)
    one.replied(PermitReply(5, 9), 0.0)
    one.leave_store()
    assert one.most == 5
    few = Permits(2, 3)
    few.leave_store()
    assert few.most == 1 and not few.short
    few.running = 1
    assert few.full(0.0)
    few.return_to_store()
    assert few.counted and few.held == 1


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["enter", "leave", "rest", "beat"]))),
    st.integers(1, 40),
)
def test_no_more_run_than_may(steps: list[tuple[int, str]], limit: int) -> None:
    store, all_ = PermitStore(), [Permits(limit, 3) for _ in range(3)]
    for number, what in steps:
        permits = all_[number]
        if what == "enter":
            if permits.short:
                permits.replied(store.do(number, permits.order(1)), 0.0)
            if permits.running < permits.most:
                permits.running += 1
            elif sum(p.running for p in all_) < limit // 2:
                # others hold what they don't use: no more than their part of the lower half
                assert sum(p.held - p.running for p in all_) > 0
        elif what == "leave" and permits.running:
            permits.running -= 1
        else:
            order = permits.order(0, keep=what == "beat")
            permits.replied(store.do(number, order), 0.0)
        assert sum(permits.running for permits in all_) <= limit
        assert sum(store.held.values()) <= limit
