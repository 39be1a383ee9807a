"""Shares of a bucket that several gateways have together, against a model of the store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.share import UNKNOWN, Share
from actors.stores.limit_orders import BucketReply
from tests.support.limit_model import ModelBucket


def ordered(share: Share, bucket: ModelBucket, need: float, now: float) -> None:
    """The share asks the store, and hears its answer."""
    order = share.order(need, need, now)
    share.replied(bucket.do(order, now), now)


def test_a_batch_of_a_hundredth_serves_requests_without_asking() -> None:
    share, bucket = Share(6000, 3, 0.0), ModelBucket(6000, 0.0)
    assert share.batch == 20
    ordered(share, bucket, 1, 0.0)
    assert share.balance == 21
    for _ in range(11):
        assert not share.short(1)
        share.take(1, 0.0)
        asked = share.due(0.0)
    assert not asked  # not before less than half a batch is left
    share.take(1, 0.0)
    assert share.due(0.0)


def test_a_small_limit_is_never_held_in_advance() -> None:
    share, bucket = Share(60, 3, 0.0), ModelBucket(60, 0.0)
    assert share.batch == 0
    ordered(share, bucket, 1, 0.0)
    share.take(1, 0.0)
    assert share.balance == 0 and bucket.level(0.0) == 59 and not share.due(0.0)


def test_what_is_used_beyond_the_estimate_is_a_debt_of_the_whole_bucket() -> None:
    """The bucket goes below zero, for all gateways, and they wait until it is above again."""
    one, other, bucket = Share(2000, 2, 0.0), Share(2000, 2, 0.0), ModelBucket(2000, 0.0)
    ordered(one, bucket, 300, 0.0)
    one.take(300, 0.0)
    one.take(7619 - 300, 0.0)
    assert one.due(0.0)
    ordered(one, bucket, 0, 0.0)
    assert bucket.level(0.0) == pytest.approx(2000 - 7619, abs=2 * one.batch)
    ordered(other, bucket, 300, 0.0)
    assert other.short(300)
    assert other.wait_s(300, 0.0) == pytest.approx((7619 - 2000 + 300) / 2000 * 60, rel=0.02)


def test_what_was_not_used_goes_back_at_once_where_no_batch_is_held() -> None:
    share, bucket = Share(60, 3, 0.0), ModelBucket(60, 0.0)
    ordered(share, bucket, 50, 0.0)
    share.take(50, 0.0)
    share.take(-45, 0.0)
    assert share.due(0.0)
    ordered(share, bucket, 0, 0.0)
    assert bucket.level(0.0) == 55 and share.balance == 0


def test_more_than_a_bucket_holds_waits_for_a_full_one_and_pays_the_rest_later() -> None:
    share, bucket = Share(100, 1, 0.0), ModelBucket(100, 0.0)
    ordered(share, bucket, 250, 0.0)
    assert not share.short(250)
    share.take(250, 0.0)
    ordered(share, bucket, 0, 0.0)
    assert bucket.level(0.0) == pytest.approx(-150)


def test_an_outage_gives_nobody_a_full_bucket() -> None:
    """Known was 10 of 600; each of three has a third of that, and of the rate."""
    shares, bucket = [Share(600, 3, 0.0) for _ in range(3)], ModelBucket(600, 0.0)
    for share in shares:
        ordered(share, bucket, 1, 0.0)
    bucket.take(bucket.level(0.0) - 9, 0.0)
    for share in shares:
        share.take(share.balance, 0.0)
        share.replied(BucketReply(0.0, 9.0), 0.0)
        share.leave_store(0.0)
    taken = 0
    for second in range(120):
        for share in shares:
            while share.wait_s(1, float(second)) == 0:
                share.take(1, float(second))
                taken += 1
    assert taken == pytest.approx(9 + 119 * 10, abs=3)
    for share in shares:
        share.return_to_store(119.0)
        ordered(share, bucket, 0, 119.0)
    assert bucket.level(119.0) == pytest.approx(0, abs=4)


def test_a_short_outage_charges_what_was_used_in_it_and_no_more() -> None:
    share, bucket = Share(600, 3, 0.0), ModelBucket(600, 0.0)
    ordered(share, bucket, 1, 0.0)
    held = share.balance
    share.leave_store(0.0)
    for _ in range(50):
        assert share.wait_s(1, 0.0) == 0
        share.take(1, 0.0)
    share.return_to_store(0.0)
    ordered(share, bucket, 0, 0.0)
    assert 550 - held <= bucket.level(0.0) + share.balance <= 550


def test_a_bucket_that_nobody_knows_of_is_never_full_in_an_outage() -> None:
    share = Share(600, 3, 0.0)
    share.leave_store(0.0)
    taken = 0
    while share.wait_s(1, 0.0) == 0:
        share.take(1, 0.0)
        taken += 1
    assert taken == 600 * UNKNOWN / 3


def test_in_doubt_what_was_used_is_charged_again() -> None:
    share = Share(600, 1, 0.0)
    share.take(7, 0.0)
    order = share.order(0, 0, 0.0)
    assert order.delta == -7 and share.balance == 0
    share.unheard(order)
    assert share.balance == -7
    share.replied(BucketReply(20.0, 500.0), 0.0)
    order = share.order(0, 0, 0.0, keep=False)
    assert order.delta == 13
    share.unheard(order)
    assert share.balance == 0


def test_another_limit_leaves_as_much_in_parts_of_the_whole() -> None:
    share = Share(600, 1, 0.0)
    share.stand_alone(0.0)
    share.take(300, 0.0)
    share.change(60, 0.0)
    assert share.left(0.0) == pytest.approx(30)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # a gateway
        st.sampled_from(["ask", "use", "more", "less", "rest", "lost"]),
        st.floats(0.0, 5.0),  # seconds before
        st.floats(0.5, 30.0),  # an amount
    ),
    max_size=80,
)


@given(STEPS, st.floats(10.0, 3000.0))
def test_what_is_taken_never_exceeds_burst_and_rate(
    steps: list[tuple[int, str, float, float]], limit: float
) -> None:
    """Whatever three gateways do, in whatever order, and whatever answers are lost: what they let
    in, less the debts that are still to be paid, comes out of the one bucket."""
    shares, bucket = [Share(limit, 3, 0.0) for _ in range(3)], ModelBucket(limit, 0.0)
    now = used = 0.0
    for gateway, what, pause, amount in steps:
        now += pause
        share = shares[gateway]
        if what == "ask":
            ordered(share, bucket, amount, now)
        elif what == "lost":
            order = share.order(amount, amount, now)
            bucket.do(order, now)
            share.unheard(order)
        elif what == "rest":
            order = share.order(0, 0, now, keep=False)
            share.replied(bucket.do(order, now), now)
        elif (
            what == "use" and not share.short(amount) and share.wait_s(amount, now) == 0
        ) or what == "more":
            share.take(amount, now)
            used += amount
        elif what == "less" and used >= amount:
            share.take(-amount, now)
            used -= amount
        balance = sum(share.balance for share in shares)
        assert used + balance + bucket.level(now) <= limit + limit / 60 * now + 1e-6 * len(steps)
