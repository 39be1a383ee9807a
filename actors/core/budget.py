"""Which budgets a request falls under, when their periods begin and end, and who gets what is left.

What is decided for real is decided in the database, by `open_within_budgets` (see
docs/adr/0034-budgets.md), which locks what it decides about. This says the same in Python: for
what is told to people, and as what that function is tested against.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

import msgspec

from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.core.request_bound import Rates, RequestBound
from actors.errors import BudgetExceeded, QuotaExceeded
from supervision.errors import BadRequest

MOST_AMOUNT: Final = 10**15  # a billion of money, in micros; and a sum of two fits PostgreSQL
MOST_SHARES: Final = 8
MOST_CHARACTERS: Final = 256
STATUSES: Final = (402, 429)
_EVER: Final = date(1970, 1, 1)


def covers(budget: TenantBudget, tenant_id: str, key_id: str, model_ref: str) -> bool:
    """Does a request of this tenant, with this API key, to this `name@version` fall under it?"""
    return (
        budget.tenant_id == tenant_id
        and budget.key_id in ("", key_id)
        and budget.model in ("", model_ref, model_ref.partition("@")[0])
    )


def begins(period: BudgetPeriod, at: datetime) -> date:
    """The first day of the period that `at` is in; of all of time, 1970's."""
    day = at.astimezone(UTC).date()
    if period is BudgetPeriod.TOTAL:
        return _EVER
    return day if period is BudgetPeriod.DAY else day.replace(day=1)


def ends(period: BudgetPeriod, begun: date) -> datetime | None:
    """When the period ends that began on that day; None: never."""
    if period is BudgetPeriod.TOTAL:
        return None
    days = 1 if period is BudgetPeriod.DAY else 31
    return datetime.combine(begins(period, _noon(begun + timedelta(days))), time(), UTC)


def _noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def checked(budget: TenantBudget) -> TenantBudget:
    """`budget`, its shares in order and each once.

    Raises:
        BadRequest: one of its numbers is out of range; `param` names it.
    """
    if not 0 <= budget.amount <= MOST_AMOUNT:
        raise BadRequest(
            f"a budget's amount is {budget.amount}; it must be from 0 (nothing may be spent) to "
            f"{MOST_AMOUNT} {budget.unit}",
            param="amount",
        )
    if len(budget.warn) > MOST_SHARES or not all(1 <= share <= 100 for share in budget.warn):
        raise BadRequest(
            f"a budget warns at {', '.join(map(str, budget.warn))} per cent; give at most "
            f"{MOST_SHARES} shares from 1 to 100",
            param="warn",
        )
    if budget.over not in STATUSES:
        raise BadRequest(
            f"over a budget requests are refused with {budget.over}; it must be 402 or 429",
            param="over",
        )
    for name, word in (
        ("tenant", budget.tenant_id),
        ("key", budget.key_id),
        ("model", budget.model),
    ):
        bounded(name, word)
    shares = tuple(sorted(set(budget.warn)))
    return msgspec.structs.replace(budget, warn=shares)


def exceeded(budget: TenantBudget, begun: date, left: int, now: datetime) -> BudgetExceeded:
    """What a request is told that this budget has no room for: it has `left` in the period that
    began on `begun`."""
    end = ends(budget.period, begun)
    whose = f"budget {budget.id} of tenant {budget.tenant_id}"
    whose += f" for model {budget.model}" if budget.model else ""
    whose += " and this API key" if budget.key_id else ""
    if end is None:
        period, anew = "in all", "it never begins anew"
    else:
        period = f"for the {budget.period} from {begun}"
        anew = f"it begins anew at {end:%Y-%m-%dT%H:%M:%SZ}"
    kind = QuotaExceeded if budget.over == QuotaExceeded.status else BudgetExceeded
    return kind(
        f"{whose} has {left} of {budget.amount} {budget.unit} left {period}, less than this "
        f"request may come to; {anew}; ask for a shorter answer, or have the budget raised",
        retry_after_s=None if end is None else max(1.0, (end - now).total_seconds()),
    )


def bounded(name: str, word: str) -> None:
    """
    Raises:
        BadRequest: `word` is no name of a tenant, key or model; `name` says of which.
    """
    if len(word) > MOST_CHARACTERS or not word.isprintable():
        raise BadRequest(
            f"a {name} is named by at most {MOST_CHARACTERS} printable characters", param=name
        )


class BudgetClaim(NamedTuple):
    """What a request wants of budgets. Without `exact` its answer may be cut short to fit; `rates`
    are those of its price, None where it has none. `billed` (micros, tokens) are charged already:
    the job was given anew."""

    bound: RequestBound
    budgets: tuple[int, ...]
    exact: bool = True
    rates: Rates | None = None
    billed: tuple[int, int] = (0, 0)

    def held(self, unit: BudgetUnit, output: int) -> int:
        """What is reserved for an answer of at most `output` tokens."""
        if unit is BudgetUnit.TOKENS:
            return max(0, self.bound.tokens(output) - self.billed[1])
        if self.rates is None:
            return 0
        return max(0, self.bound.micros(output, self.rates) - self.billed[0])

    def longest(self, unit: BudgetUnit, left: int) -> int | None:
        """The longest answer that this much suffices for; None if there is no such."""
        if unit is BudgetUnit.TOKENS:
            return self.bound.within_tokens(left + self.billed[1])
        if self.rates is None:
            return self.bound.output
        return self.bound.within_micros(left + self.billed[0], self.rates)


class Choice(NamedTuple):
    """Of a claim: the longest answer that it may have, or the budget that has no room for it."""

    output: int
    refused_by: int | None = None


def choose(
    claims: Iterable[BudgetClaim], left: Mapping[int, int], units: Mapping[int, BudgetUnit]
) -> Sequence[Choice]:
    """Who of `claims` fits into what is `left` of the budgets, each taking its share before the
    next is looked at. What is refused takes nothing; the budget that is named is the first one, in
    the order of their numbers, that is short."""
    rest = dict(left)
    chosen: list[Choice] = []
    for claim in claims:
        output, short = claim.bound.output, None
        for budget in sorted(claim.budgets):
            longest = claim.longest(units[budget], rest[budget])
            if longest is None or (claim.exact and longest < output):
                short = budget
                break
            output = min(output, longest)
        if short is not None:
            chosen.append(Choice(0, short))
            continue
        for budget in claim.budgets:
            rest[budget] -= claim.held(units[budget], output)
        chosen.append(Choice(output))
    return chosen
