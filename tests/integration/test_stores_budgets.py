"""Budgets in PostgreSQL: made, changed, shown, removed; and the events of their shares."""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec
import pytest

from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.stores import budgets, keys
from supervision.errors import BadRequest

BUDGET = TenantBudget(
    tenant_id="acme", period=BudgetPeriod.MONTH, unit=BudgetUnit.TOKENS, amount=1000
)


def changed(**fields: Any) -> TenantBudget:
    return msgspec.structs.replace(BUDGET, **fields)


async def spend(connection: asyncpg.Connection, id: int, tokens: int) -> None:
    """As a settle does."""
    await connection.execute(
        "INSERT INTO budget_periods (budget_id, begins, warns_at) SELECT id, "
        "budget_begins(period, (now() AT TIME ZONE 'UTC')::date), "
        "budget_warns_at(amount, warn, 0) FROM budgets WHERE id = $1 ON CONFLICT DO NOTHING",
        id,
    )
    await connection.execute(
        "UPDATE budget_periods SET spent = spent + $2 WHERE budget_id = $1", id, tokens
    )


async def test_a_budget_is_made_changed_shown_and_removed(connection: asyncpg.Connection) -> None:
    key = (await keys.create(connection, "acme")).key
    made = await budgets.set_(connection, BUDGET)
    assert (made.spent, made.reserved, made.left) == (0, 0, 1000)
    assert made.begins.endswith("-01") and made.ends_s is not None
    again = await budgets.set_(connection, changed(amount=500, warn=(50,), over=429))
    assert again.budget == changed(amount=500, warn=(50,), over=429, id=made.budget.id)
    narrow = await budgets.set_(
        connection, changed(key_id=key.prefix, model="m@1", period=BudgetPeriod.TOTAL)
    )
    assert narrow.budget.key_id == key.id and narrow.ends_s is None
    assert narrow.budget.id != made.budget.id
    found, more = await budgets.shown(connection, "acme")
    assert [state.budget.id for state in found] == [made.budget.id, narrow.budget.id] and not more
    assert await budgets.shown(connection, "other") == ((), False)
    assert (await budgets.shown(connection, after=made.budget.id))[0] == (narrow,)
    assert (await budgets.remove(connection, made.budget.id)).budget.id == made.budget.id
    assert (await budgets.shown(connection))[0] == (narrow,)
    anew = await budgets.set_(connection, BUDGET)  # what ended is no living one's like
    assert anew.budget.id > narrow.budget.id


@pytest.mark.parametrize(
    ("wrong", "param", "words"),
    [
        ({"amount": -1}, "amount", "-1"),
        ({"warn": (0, 80)}, "warn", "shares from 1 to 100"),
        ({"warn": (101,)}, "warn", "shares from 1 to 100"),
        ({"tenant_id": "nobody"}, "tenant", "no tenant 'nobody'"),
        ({"tenant_id": "no\0body"}, "tenant", "printable"),
        ({"key_id": "11111111-1111-1111-1111-111111111111"}, "key", "no API key"),
        ({"key_id": "nonsense"}, "key", "no API key"),
        ({"over": 500}, "over", "402 or 429"),
    ],
)
async def test_what_can_be_no_budget_is_refused(
    connection: asyncpg.Connection, wrong: dict[str, Any], param: str, words: str
) -> None:
    await keys.create(connection, "acme")
    with pytest.raises(BadRequest, match=words) as refused:
        await budgets.set_(connection, changed(**wrong))
    assert refused.value.param == param
    assert await budgets.shown(connection) == ((), False)


async def test_another_tenants_key_has_no_budget_here(connection: asyncpg.Connection) -> None:
    await keys.create(connection, "acme")
    other = (await keys.create(connection, "other")).key
    with pytest.raises(BadRequest, match="no API key"):
        await budgets.set_(connection, changed(key_id=other.id))


@pytest.mark.parametrize("id", [-1, 0, 7, 2**62])
async def test_what_is_not_there_is_not_removed(connection: asyncpg.Connection, id: int) -> None:
    with pytest.raises(BadRequest, match="no budget"):
        await budgets.remove(connection, id)


async def test_each_share_is_an_event_once_a_period(connection: asyncpg.Connection) -> None:
    await keys.create(connection, "acme")
    id = (await budgets.set_(connection, BUDGET)).budget.id
    shares = []
    for tokens in (799, 1, 100, 100, 500, 0):
        await spend(connection, id, tokens)
        found, _ = await budgets.shown(connection, id=id)
        shares.append([event.share for event in reversed(found[0].events)])
    assert shares == [[], [80], [80], [80, 95, 100], [80, 95, 100], [80, 95, 100]]
    last = found[0].events[0]
    assert (last.share, last.spent, last.amount, last.begins) == (100, 1000, 1000, found[0].begins)


async def test_a_budget_that_is_lowered_below_what_is_spent_says_so(
    connection: asyncpg.Connection,
) -> None:
    await keys.create(connection, "acme")
    id = (await budgets.set_(connection, BUDGET)).budget.id
    await spend(connection, id, 600)
    lowered = await budgets.set_(connection, changed(amount=630))
    assert [event.share for event in lowered.events] == [95, 80]
    raised = await budgets.set_(connection, changed(amount=10_000, warn=(10, 50)))
    assert [event.share for event in raised.events] == [95, 80] and raised.left == 9400
    await spend(connection, id, 400)
    found, _ = await budgets.shown(connection, id=id)
    assert [event.share for event in found[0].events] == [10, 95, 80]


async def test_an_event_is_told_of_once(connection: asyncpg.Connection) -> None:
    await keys.create(connection, "acme")
    id = (await budgets.set_(connection, BUDGET)).budget.id
    await spend(connection, id, 960)
    told = await budgets.tell(connection)
    assert [(event.budget_id, event.tenant_id, event.share) for event in told] == [
        (id, "acme", 80),
        (id, "acme", 95),
    ]
    assert await budgets.tell(connection) == ()
