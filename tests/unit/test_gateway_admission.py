from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.admission import UNLIMITED, ShareShort, TenantAdmission, TenantLimits
from actors.gateway.residues import Residues
from actors.stores.limit_orders import BucketReply, PermitReply, TenantReply
from supervision.errors import RateLimited
from supervision.policies import TokenBucket


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 20)), min_size=1, max_size=30))
def test_a_bucket_never_gives_more_than_burst_and_rate(steps: list[tuple[float, float]]) -> None:
    """Whatever the pattern, what was taken stays within burst + rate · time, but for the one
    oversized request that a full bucket lets go into debt."""
    bucket, now, taken, largest = TokenBucket(2.0, 10.0, 0.0), 0.0, 0.0, 0.0
    for pause, amount in steps:
        now += pause
        if bucket.wait_s(amount, now) == 0:
            bucket.take(amount, now)
            taken += amount
            largest = max(largest, amount)
        assert taken <= 10.0 + 2.0 * now + max(0.0, largest - 10.0) + 1e-6


def test_waiting_as_told_is_enough() -> None:
    bucket = TokenBucket(2.0, 10.0, 0.0)
    bucket.take(10.0, 0.0)
    wait = bucket.wait_s(4.0, 0.0)
    assert wait == pytest.approx(2.0)
    assert bucket.wait_s(4.0, wait) == 0


def test_requests_a_minute() -> None:
    admission, limits = TenantAdmission(), TenantLimits(requests_per_minute=2)
    for _ in range(2):
        admission.admit("acme", limits, 1, 0.0)
        admission.leave("acme", 0, 0.0)
    with pytest.raises(RateLimited, match="more than 2 requests a minute") as caught:
        admission.admit("acme", limits, 1, 0.0)
    assert caught.value.retry_after_s == pytest.approx(30.0)
    admission.admit("other", limits, 1, 0.0)
    admission.admit("acme", limits, 1, 30.0)


def test_tokens_a_minute_are_given_back_when_unused() -> None:
    admission, limits = TenantAdmission(), TenantLimits(tokens_per_minute=100)
    admission.admit("acme", limits, 100, 0.0)
    with pytest.raises(RateLimited, match="tokens a minute"):
        admission.admit("acme", limits, 50, 0.0)
    admission.leave("acme", 60, 0.0)
    admission.admit("acme", limits, 50, 0.0)


def test_a_refused_request_costs_nothing() -> None:
    admission = TenantAdmission()
    limits = TenantLimits(requests_per_minute=2, tokens_per_minute=10)
    admission.admit("acme", limits, 10, 0.0)
    for _ in range(5):
        with pytest.raises(RateLimited, match="tokens"):
            admission.admit("acme", limits, 10, 0.0)
    admission.leave("acme", 10, 0.0)
    admission.admit("acme", limits, 10, 0.0)


def test_concurrency() -> None:
    admission, limits = TenantAdmission(), TenantLimits(concurrency=1)
    admission.admit("acme", limits, 1, 0.0)
    with pytest.raises(RateLimited, match="1 may at once"):
        admission.admit("acme", limits, 1, 0.0)
    admission.leave("acme", 0, 0.0)
    admission.admit("acme", limits, 1, 0.0)


def test_a_resumed_request_is_counted_but_never_refused() -> None:
    admission, limits = TenantAdmission(), TenantLimits(requests_per_minute=1, concurrency=1)
    admission.admit("acme", limits, 1, 0.0)
    admission.admit("acme", limits, 1, 0.0, resumed=True)
    admission.leave("acme", 0, 0.0)
    with pytest.raises(RateLimited, match="1 may at once"):
        admission.admit("acme", limits, 1, 0.0)


def test_new_limits_keep_the_count_of_running_requests() -> None:
    admission = TenantAdmission()
    admission.admit("acme", UNLIMITED, 1, 0.0)
    with pytest.raises(RateLimited):
        admission.admit("acme", TenantLimits(concurrency=1), 1, 0.0)


def test_idle_tenants_are_forgotten_and_busy_ones_are_not() -> None:
    admission = TenantAdmission(max_tenants=2)
    admission.admit("busy", TenantLimits(concurrency=1), 1, 0.0)
    for number in range(10):
        admission.admit(f"t{number}", UNLIMITED, 1, 0.0)
        admission.leave(f"t{number}", 0, 0.0)
    assert len(admission) == 2
    with pytest.raises(RateLimited):
        admission.admit("busy", TenantLimits(concurrency=1), 1, 0.0)


def test_limits_are_validated() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        TenantLimits(concurrency=-1)
    with pytest.raises(ValueError, match="tokens_per_minute"):
        TenantLimits(tokens_per_minute=float("nan"))


def test_a_tenant_whose_meter_made_room_comes_back_to_what_it_has_left() -> None:
    admission = TenantAdmission(max_tenants=10)
    limits = TenantLimits(requests_per_minute=60, tokens_per_minute=600)
    for _ in range(60):
        admission.admit("acme", limits, 1, 0.0)
        admission.leave("acme", 0, 0.0)
    for number in range(100):
        admission.admit(f"t{number}", limits, 1, 1.0)
        admission.leave(f"t{number}", 0, 1.0)
    assert admission.meter("acme") is None
    for _ in range(3):
        admission.admit("acme", limits, 1, 3.0)
        admission.leave("acme", 0, 3.0)
    with pytest.raises(RateLimited):
        admission.admit("acme", limits, 1, 3.0)


def test_what_is_too_much_to_remember_makes_newcomers_begin_as_the_emptiest() -> None:
    residues = Residues(bound=2)
    for number in range(4):
        residues.keep(f"t{number}", (0.5 + number / 10, 0.0), 0.0)
    assert len(residues) == 2
    assert residues.take("t3", 6.0) == pytest.approx((0.7, 0.0))
    assert residues.take("never seen", 6.0) == pytest.approx((0.5, 0.0))
    assert residues.take("never seen", 60.0) == (0.0, 0.0)


def test_used_beyond_the_estimate_is_charged_and_the_bucket_goes_below_zero() -> None:
    admission, limits = TenantAdmission(), TenantLimits(tokens_per_minute=2000)
    admission.admit("acme", limits, 300, 0.0)
    admission.leave("acme", 300 - 7619, 0.0)
    with pytest.raises(RateLimited) as caught:
        admission.admit("acme", limits, 300, 0.0)
    assert caught.value.retry_after_s == pytest.approx((7619 - 2000 + 300) / 2000 * 60)


def test_new_limits_fill_no_bucket() -> None:
    admission = TenantAdmission()
    for _ in range(60):
        admission.admit("acme", TenantLimits(requests_per_minute=60), 1, 0.0)
    with pytest.raises(RateLimited):
        admission.admit("acme", TenantLimits(requests_per_minute=600), 1, 0.0)


def test_who_comes_back_alone_is_no_other_request_that_runs() -> None:
    admission, limits = TenantAdmission(), TenantLimits(requests_per_minute=2, concurrency=1)
    admission.admit("acme", limits, 1, 0.0)
    admission.admit("acme", limits, 0, 0.0, runs=False)
    meter = admission.meter("acme")
    assert meter is not None and meter.running == 1
    with pytest.raises(RateLimited, match="2 requests a minute"):
        admission.admit("acme", limits, 0, 0.0, runs=False)


def test_with_a_store_nobody_enters_before_there_is_a_share() -> None:
    told: list[str] = []
    admission = TenantAdmission(
        max_tenants=2, parts=2, shared=True, due=lambda meter: told.append(meter.tenant_id)
    )
    limits = TenantLimits(requests_per_minute=600, concurrency=4)
    with pytest.raises(ShareShort) as caught:
        admission.admit("acme", limits, 1, 0.0)
    meter = caught.value.meter
    meter.wait("somebody", 1)
    order = meter.order(0.0)
    assert order.requests.least == 1 and order.permits.want == 1
    nothing = BucketReply(0.0, 0.0)
    meter.replied(TenantReply(BucketReply(4.0, 590.0), nothing, PermitReply(1, 1)), 0.0)
    meter.waited("somebody")
    admission.admit("acme", limits, 1, 0.0)
    assert told == []
    admission.leave("acme", 0, 0.0)
    for number in range(3):
        admission.switch(local=True, now=0.0)
        admission.admit(f"t{number}", limits, 1, 0.0)
        admission.leave(f"t{number}", 0, 0.0)
    assert len(admission) == 2
