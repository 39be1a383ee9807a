"""The budgets of tenants, as PostgreSQL keeps them: made, changed, shown, removed.

Who reserves and who spends isn't here: that is one statement with the job (`open_within_budgets`,
and the rounds of the `Ledger`). A budget that is made or changed holds for every request that is
reserved after that was committed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

import asyncpg

from actors.contracts.budgets import (
    BudgetEvent,
    BudgetPeriod,
    BudgetState,
    BudgetUnit,
    TenantBudget,
)
from actors.core import budget as budgets
from actors.stores.keys import DatabaseConnection
from actors.stores.queries import sql
from supervision.errors import BadRequest

MAX_SHOWN: Final = 500  # budgets in one answer
MAX_EVENTS: Final = 50  # the newest, of one budget


async def set_(connection: DatabaseConnection, budget: TenantBudget) -> BudgetState:
    """Make a budget, or change the living one that is for the same: its amount, shares, and status.
    `key_id` may also be the prefix of a key.

    Raises:
        BadRequest: a number is out of range, or there is no such tenant, or it has no such key.
    """
    budget = budgets.checked(budget)
    try:
        row = await connection.fetchrow(
            sql("set_budget"),
            budget.tenant_id,
            budget.key_id,
            budget.model,
            budget.period,
            budget.unit,
            budget.amount,
            list(budget.warn),
            budget.over,
        )
    except asyncpg.ForeignKeyViolationError:
        raise BadRequest(
            f"there is no tenant {budget.tenant_id!r}; `tether keys create` makes one",
            param="tenant",
        ) from None
    if row is None:
        raise BadRequest(
            f"tenant {budget.tenant_id!r} has no API key {budget.key_id!r}; `tether keys list` "
            "shows ids and prefixes",
            param="key",
        )
    found, _ = await shown(connection, id=row["id"])
    return found[0]


async def remove(connection: DatabaseConnection, id: int) -> BudgetState:
    """End a budget; what it has spent stays on record. Returns how it stood.

    Raises:
        BadRequest: there is no living one of this id.
    """
    found, _ = await shown(connection, id=id) if id > 0 else ((), False)
    if not found or not await connection.fetch(sql("remove_budget"), id):
        raise BadRequest(
            f"there is no budget {id}, or it was removed before; `tether budgets list` shows all",
            param="id",
        )
    return found[0]


async def shown(
    connection: DatabaseConnection, tenant_id: str = "", *, id: int = 0, after: int = 0
) -> tuple[tuple[BudgetState, ...], bool]:
    """The living budgets, or those of a tenant, or one with its events, from after an id on; and
    whether there are more.

    Raises:
        BadRequest: that is no name of a tenant.
    """
    budgets.bounded("tenant", tenant_id)
    rows = await connection.fetch(sql("show_budgets"), tenant_id, id, after, MAX_SHOWN + 1)
    events: tuple[BudgetEvent, ...] = ()
    if id and rows:
        found = await connection.fetch(sql("show_budget_events"), id, MAX_EVENTS)
        events = tuple(_event(row) for row in found)
    return tuple(_state(row, events) for row in rows[:MAX_SHOWN]), len(rows) > MAX_SHOWN


class ReachedShare(NamedTuple):
    """A share of a budget that was reached, for the log."""

    budget_id: int
    tenant_id: str
    model: str
    period: str
    unit: str
    begins: date
    share: int
    spent: int
    amount: int


async def tell(connection: DatabaseConnection) -> tuple[ReachedShare, ...]:
    """The shares that were reached and that nobody has told of yet; each goes to one asker."""
    rows = await connection.fetch(sql("tell_budget_events"), MAX_EVENTS)
    return tuple(sorted(ReachedShare(**dict(row)) for row in rows))


def _state(row: Any, events: tuple[BudgetEvent, ...]) -> BudgetState:
    budget = TenantBudget(
        tenant_id=row["tenant_id"],
        key_id=row["key_id"] or "",
        model=row["model"],
        period=BudgetPeriod(row["period"]),
        unit=BudgetUnit(row["unit"]),
        amount=row["amount"],
        warn=tuple(row["warn"]),
        over=row["over"],
        id=row["id"],
    )
    end = budgets.ends(budget.period, row["begins"])
    return BudgetState(
        budget=budget,
        begins=row["begins"].isoformat(),
        spent=row["spent"],
        reserved=row["reserved"],
        refused=row["refused"],
        ends_s=None if end is None else end.timestamp(),
        events=events,
    )


def _event(row: Any) -> BudgetEvent:
    at: datetime = row["at"]
    return BudgetEvent(
        begins=row["begins"].isoformat(),
        share=row["share"],
        spent=row["spent"],
        amount=row["amount"],
        at_s=at.astimezone(UTC).timestamp(),
    )
