"""Budgets: whose they are, when they begin anew, and who gets what is left."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.core.budget import (
    MOST_AMOUNT,
    BudgetClaim,
    begins,
    checked,
    choose,
    covers,
    ends,
    exceeded,
)
from actors.core.request_bound import Rates, RequestBound
from supervision.errors import BadRequest
from supervision.policies import Ended, outcome_of
from tests.support.properties import examples

BUDGET = TenantBudget(
    tenant_id="acme", period=BudgetPeriod.MONTH, unit=BudgetUnit.TOKENS, amount=1000
)
UNITS = {
    1: BudgetUnit.TOKENS,
    2: BudgetUnit.MICROS,
    3: BudgetUnit.TOKENS,
    4: BudgetUnit.MICROS,
}
RATES = st.none() | st.builds(
    Rates, st.sampled_from([0, 10**6, 3 * 10**6]), st.sampled_from([0, 2 * 10**6]), st.just(1)
)
CLAIMS = st.builds(
    BudgetClaim,
    st.builds(RequestBound, st.integers(0, 20), st.integers(0, 20), st.integers(1, 30)),
    st.sets(st.sampled_from(sorted(UNITS))).map(lambda b: tuple(sorted(b))),
    st.booleans(),
    RATES,
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
)


def changed(**fields: object) -> TenantBudget:
    return msgspec.structs.replace(BUDGET, **fields)


@pytest.mark.parametrize(
    ("budget", "falls"),
    [
        (BUDGET, True),
        (changed(tenant_id="other"), False),
        (changed(key_id="k1"), True),
        (changed(key_id="k2"), False),
        (changed(model="m"), True),
        (changed(model="m@1"), True),
        (changed(model="m@2"), False),
        (changed(model="mm"), False),
        (changed(model="m", key_id="k2"), False),
    ],
)
def test_which_requests_fall_under_a_budget(budget: TenantBudget, falls: bool) -> None:
    assert covers(budget, "acme", "k1", "m@1") is falls


def test_periods_are_those_of_utc() -> None:
    east = timezone(timedelta(hours=2))
    at = datetime(2027, 1, 1, 1, 30, tzinfo=east)  # still the old year in UTC
    assert begins(BudgetPeriod.DAY, at) == date(2026, 12, 31)
    assert begins(BudgetPeriod.MONTH, at) == date(2026, 12, 1)
    assert begins(BudgetPeriod.TOTAL, at) == date(1970, 1, 1)
    assert ends(BudgetPeriod.DAY, date(2026, 12, 31)) == datetime(2027, 1, 1, tzinfo=UTC)
    assert ends(BudgetPeriod.MONTH, date(2026, 12, 1)) == datetime(2027, 1, 1, tzinfo=UTC)
    assert ends(BudgetPeriod.TOTAL, date(1970, 1, 1)) is None


@given(
    st.integers(31_536_000, 7_258_118_400).map(lambda at: datetime.fromtimestamp(at, UTC)),
    st.sampled_from([BudgetPeriod.DAY, BudgetPeriod.MONTH]),
)
def test_every_moment_is_in_one_period(at: datetime, period: BudgetPeriod) -> None:
    begun = begins(period, at)
    end = ends(period, begun)
    assert end is not None
    assert datetime(begun.year, begun.month, begun.day, tzinfo=UTC) <= at < end
    assert begins(period, end) == end.date()


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": MOST_AMOUNT + 1}, "amount"),
        ({"warn": (0,)}, "warn"),
        ({"warn": (101,)}, "warn"),
        ({"warn": (-5, 80)}, "warn"),
        ({"warn": tuple(range(1, 10))}, "warn"),
        ({"over": 500}, "over"),
        ({"model": "m" * 257}, "model"),
        ({"model": "a\0b"}, "model"),
        ({"tenant_id": "a\ud800"}, "tenant"),
        ({"key_id": "a\n"}, "key"),
    ],
)
def test_what_can_be_no_budget_is_refused_by_name(wrong: dict[str, object], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        checked(changed(**wrong))
    assert refused.value.param == param


def test_shares_are_kept_in_order_and_once() -> None:
    assert checked(changed(warn=(95, 50, 95))).warn == (50, 95)
    assert checked(changed(amount=0, warn=())).warn == ()


@pytest.mark.parametrize(("over", "code"), [(402, "budget_exceeded"), (429, "insufficient_quota")])
def test_who_is_refused_is_told_which_budget_and_when_it_begins_anew(over: int, code: str) -> None:
    now = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    budget = changed(id=7, model="m", key_id="k1", over=over)
    error = exceeded(budget, date(2026, 12, 1), 12, now)
    assert (error.status, error.code, error.retry_after_s) == (over, code, 60.0)
    assert not error.retryable and outcome_of(error).ended is Ended.REJECTED
    assert error.message == (
        "budget 7 of tenant acme for model m and this API key has 12 of 1000 tokens left for the "
        "month from 2026-12-01, less than this request may come to; it begins anew at "
        "2027-01-01T00:00:00Z; ask for a shorter answer, or have the budget raised"
    )
    never = exceeded(changed(period=BudgetPeriod.TOTAL), date(1970, 1, 1), 0, now)
    assert never.retry_after_s is None and "it never begins anew" in never.message


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(CLAIMS, max_size=8),
    st.fixed_dictionaries({budget: st.integers(0, 200) for budget in UNITS}),
)
def test_no_budget_is_overrun_and_nobody_is_refused_who_fits(
    claims: list[BudgetClaim], left: dict[int, int]
) -> None:
    rest = dict(left)
    for claim, choice in zip(claims, choose(claims, left, UNITS), strict=True):
        if choice.refused_by is not None:
            # not even the shortest answer that would do fits into the budget that is named
            shortest = claim.bound.output if claim.exact else min(1, claim.bound.output)
            unit = UNITS[choice.refused_by]
            assert claim.held(unit, shortest) > rest[choice.refused_by]
            continue
        assert not claim.exact or choice.output == claim.bound.output
        for budget in claim.budgets:
            rest[budget] -= claim.held(UNITS[budget], choice.output)
            assert rest[budget] >= 0
        if choice.output < claim.bound.output:
            # one more token, and some budget would be overrun
            assert any(
                claim.held(UNITS[budget], choice.output + 1)
                > rest[budget] + claim.held(UNITS[budget], choice.output)
                for budget in claim.budgets
            )
