"""Budgets of tenants: what may be spent in a day, a month, or at all, and how much is.

A budget holds for all requests of a tenant, or for those of one of its API keys, or to one model,
or both. Its *period* is a day or a month of UTC, or all of time; in each of them at most `amount`
of its *unit* is spent. What a running request may still come to is *reserved*: it can't be spent by
another one.

Pure.
"""

from __future__ import annotations

from enum import StrEnum

from supervision.contracts.contract import Contract, Value


class BudgetUnit(StrEnum):
    """What is counted."""

    MICROS = "micros"  # money: millionths of the prices' currency
    TOKENS = "tokens"  # of prompt and answer together


class BudgetPeriod(StrEnum):
    """When it begins anew, in UTC."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"  # never


class TenantBudget(Value, frozen=True):
    """`key_id` is that of an API key of the tenant, `model` a name or `name@version`; empty ones
    are all. `warn` are the shares (per cent of `amount`) at which an event is written, besides 100.
    Over the budget a request is refused with the HTTP status `over`: 402, or 429, which more
    clients know. `id` 0: it is not made yet."""

    tenant_id: str
    period: BudgetPeriod
    unit: BudgetUnit
    amount: int
    key_id: str = ""
    model: str = ""
    warn: tuple[int, ...] = (80, 95)
    over: int = 402
    id: int = 0


class BudgetEvent(Value, frozen=True):
    """`share` per cent of the amount were spent in the period that began on the date `begins`, for
    the first time; `at_s` is Unix time."""

    begins: str
    share: int
    spent: int
    amount: int
    at_s: float


class BudgetState(Value, frozen=True):
    """A budget as it stands in its present period, which began on the date `begins` and ends at
    `ends_s` (Unix time; None: never). `refused` are the requests that it has turned away."""

    budget: TenantBudget
    begins: str
    spent: int = 0
    reserved: int = 0
    refused: int = 0
    ends_s: float | None = None
    events: tuple[BudgetEvent, ...] = ()

    @property
    def left(self) -> int:
        """What the next request may come to at most."""
        return max(0, self.budget.amount - self.spent - self.reserved)


class SetBudget(Contract, frozen=True):
    """An operator's process → registry: from now on it is so. A living budget of the same tenant,
    key, model, period and unit is changed, else one is made; answered with `BudgetsShown` of it."""

    budget: TenantBudget
    by: str = ""


class RemoveBudget(Contract, frozen=True):
    """An operator's process → registry: it holds no longer; answered with `BudgetsShown` of how it
    stood. What it has spent stays on record."""

    id: int
    by: str = ""


class ShowBudgets(Contract, frozen=True):
    """An operator's process → registry: the living budgets, of one tenant, or the one of this `id`
    with its newest events; from after `after` on, as many as one answer holds."""

    tenant_id: str = ""
    id: int = 0
    after: int = 0


class BudgetsShown(Contract, frozen=True):
    """In the order of their ids. `more`: there are others after them."""

    budgets: tuple[BudgetState, ...]
    more: bool = False
