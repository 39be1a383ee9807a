"""Budgets in the ledger: what a job may come to is reserved with it, what it came to is spent when
it is settled, and what is left fits or doesn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from actors.contracts import JobState, Maximum, Outcome, Reserve, Settle, Usage
from actors.contracts.budgets import BudgetPeriod, BudgetState, BudgetUnit, TenantBudget
from actors.core.price import Price, PriceBook
from actors.errors import BudgetExceeded, QuotaExceeded
from actors.stores import budgets, keys
from actors.stores.ledger import Ledger
from actors.stores.queries import sql
from supervision.errors import BadRequest
from tests.support.messages import reserve

MOST = Maximum(prompt_tokens=50, output_tokens=50, total_tokens=1000)
BUDGET = TenantBudget(
    tenant_id="acme", period=BudgetPeriod.TOTAL, unit=BudgetUnit.TOKENS, amount=250
)


def asked(token: str, most: Maximum = MOST, **changes: Any) -> Reserve:
    return msgspec.structs.replace(reserve(token, **changes), most=most)


def settled(msg: Reserve, prompt: int, output: int, **changes: Any) -> Settle:
    fields: dict[str, Any] = {
        "job_id": msg.job.job_id,
        "fencing_token": 1,
        "outcome": Outcome.COMPLETED,
        "usage": Usage(prompt_tokens=prompt, completion_tokens=output),
    }
    return Settle(**(fields | changes))


@pytest_asyncio.fixture
async def ledger(dsn: str, connection: asyncpg.Connection) -> AsyncIterator[Ledger]:
    await keys.create(connection, "acme")
    await keys.create(connection, "other")
    async with Ledger(dsn) as ledger:
        yield ledger


async def made(connection: asyncpg.Connection, **fields: Any) -> int:
    budget = msgspec.structs.replace(BUDGET, **fields)
    return (await budgets.set_(connection, budget)).budget.id


async def stands(connection: asyncpg.Connection, id: int) -> BudgetState:
    return (await budgets.shown(connection, id=id))[0][0]


async def numbers(connection: asyncpg.Connection, id: int) -> tuple[int, int, int]:
    state = await stands(connection, id)
    return state.spent, state.reserved, state.refused


async def test_what_is_reserved_is_spent_or_given_back(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection)
    first, second, third = asked("1"), asked("2"), asked("3")
    await asyncio.gather(ledger.reserve(first), ledger.reserve(second))
    assert await numbers(connection, id) == (0, 200, 0)
    with pytest.raises(BudgetExceeded, match=f"budget {id} of tenant acme has 50 of 250") as over:
        await ledger.reserve(third)
    assert over.value.status == 402 and over.value.retry_after_s is None
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 2
    assert await connection.fetchval("SELECT count(*) FROM leases") == 2
    await ledger.settle(settled(first, 10, 20))
    assert await numbers(connection, id) == (30, 100, 1)
    await ledger.reserve(third)
    failed = settled(second, 10, 0, outcome=Outcome.FAILED)
    await asyncio.gather(ledger.settle(settled(third, 50, 50)), ledger.settle(failed))
    assert await numbers(connection, id) == (130, 0, 1)
    billed = await connection.fetchval("SELECT sum(prompt_tokens + output_tokens) FROM ledger")
    assert billed == 130


async def test_a_budget_holds_from_the_moment_that_it_is_made(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """Nobody has to be told: the next statement knows."""
    for number in range(20):
        tenant = f"t{number}"
        await keys.create(connection, tenant)
        await ledger.reserve(asked("before", tenant_id=tenant))
        id = await made(connection, amount=0, tenant_id=tenant)
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(asked("after", tenant_id=tenant))
        assert await numbers(connection, id) == (0, 0, 1)


async def test_who_has_no_budget_goes_the_short_road(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await made(connection)
    unbounded = asked("1", Maximum(), tenant_id="other")
    assert (await ledger.reserve(unbounded)).assignment.state is JobState.NEW
    with pytest.raises(BadRequest, match="doesn't say what it may use"):
        await ledger.reserve(asked("1", Maximum()))


async def test_a_removed_or_raised_budget_is_no_hindrance(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection, amount=10, over=429)
    with pytest.raises(QuotaExceeded):
        await ledger.reserve(asked("1"))
    await made(connection, amount=100)
    await ledger.reserve(asked("1"))
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(asked("2"))
    await budgets.remove(connection, id)
    assert (await ledger.reserve(asked("2"))).assignment.state is JobState.NEW


async def test_a_reserve_that_is_sent_again_reserves_once(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection)
    msg = asked("1", Maximum(prompt_tokens=50, output_tokens=900, total_tokens=1000, exact=False))
    msg = msgspec.structs.replace(
        msg, ownership=msgspec.structs.replace(msg.ownership, claim_token=7)
    )
    first = (await ledger.reserve(msg)).assignment
    again = (await ledger.reserve(msg)).assignment
    assert again == first and first.state is JobState.NEW and first.max_tokens == 200
    other = asked("1", claim_token=8)
    led = (await ledger.reserve(other)).assignment
    assert led.state is JobState.RUNNING and led.max_tokens == 200
    assert await numbers(connection, id) == (0, 250, 0)
    # moved to another worker by who holds the claim, it keeps its cap and what it holds
    moved = asked("1", job_id=msg.job.job_id, claim_token=9, held_claim_token=8, worker_id="w2")
    given = (await ledger.reserve(moved)).assignment
    assert (given.state, given.fencing_token, given.max_tokens) == (JobState.NEW, 2, 200)
    assert await numbers(connection, id) == (0, 250, 0)
    await ledger.settle(settled(msg, 20, 200, fencing_token=2))
    assert await numbers(connection, id) == (220, 0, 0)


async def test_a_job_given_anew_reserves_anew_and_only_what_was_not_billed(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection)
    first = asked("1")
    await ledger.reserve(first)
    await ledger.settle(settled(first, 10, 20, outcome=Outcome.CANCELLED))
    assert await numbers(connection, id) == (30, 0, 0)
    anew = (await ledger.reserve(asked("1"))).assignment
    assert (anew.state, anew.fencing_token) == (JobState.NEW, 2)
    assert await numbers(connection, id) == (30, 70, 0)
    await ledger.settle(settled(first, 10, 50, fencing_token=2))
    assert await numbers(connection, id) == (60, 0, 0)
    assert await connection.fetchval("SELECT sum(prompt_tokens + output_tokens) FROM ledger") == 60


async def test_a_job_that_no_longer_fits_is_not_given_anew(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection)
    first = asked("1")
    await ledger.reserve(first)
    await ledger.settle(settled(first, 10, 0, outcome=Outcome.FAILED))
    await ledger.reserve(asked("2"))
    await ledger.reserve(asked("3"))
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(asked("1"))
    assert await connection.fetchval("SELECT fence FROM jobs WHERE retry_token = '1'") == 1
    assert await numbers(connection, id) == (0, 200, 1)


async def test_an_answer_that_was_billed_and_lost_is_never_refused(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection, amount=100)
    first = asked("1")
    await ledger.reserve(first)
    await ledger.settle(settled(first, 50, 50))
    assert await numbers(connection, id) == (100, 0, 0)
    again = (await ledger.reserve(asked("1", lost_fencing_token=1))).assignment
    assert (again.state, again.fencing_token) == (JobState.NEW, 2)
    await ledger.settle(settled(first, 50, 50, fencing_token=2))
    assert await numbers(connection, id) == (100, 0, 0)


async def test_money_is_held_by_the_jobs_price_and_spent_as_it_is_billed(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await keys.create(connection, "acme")
    version = await connection.fetchval(
        "INSERT INTO prices (model, currency, prompt, cached, reasoning, output, request) "
        "VALUES ('*', 'EUR', 1000000, 500000, 2000000, 2000000, 3) RETURNING version"
    )
    prices = PriceBook([Price(version, "*", "EUR", 10**6, 500_000, 2 * 10**6, 2 * 10**6, 3)])
    id = await made(connection, unit=BudgetUnit.MICROS, amount=200)
    async with Ledger(dsn, prices=prices) as ledger:
        first = asked("1")
        await ledger.reserve(first)  # 50 of 1, 50 of 2, and 3
        assert await numbers(connection, id) == (0, 153, 0)
        with pytest.raises(BudgetExceeded, match="47 of 200 micros"):
            await ledger.reserve(asked("2"))
        await ledger.settle(
            settled(
                first,
                50,
                10,
                usage=Usage(prompt_tokens=50, completion_tokens=10, cached_tokens=20),
            )
        )
        assert await numbers(connection, id) == (63, 0, 1)
    assert await connection.fetchval("SELECT sum(micros) FROM ledger") == 63


async def test_what_is_swept_gives_its_budget_back(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection)
    await ledger.reserve(asked("1"))
    assert await numbers(connection, id) == (0, 100, 0)
    await connection.execute("UPDATE leases SET expires_at = now() - interval '1 hour'")
    swept = await connection.fetchrow(sql("sweep"), 10, 0.0)
    assert swept["expired"] == 1
    assert await numbers(connection, id) == (0, 0, 0)
    # what comes after that was delivered all the same, and is spent
    await ledger.settle(settled(asked("1"), 10, 5, job_id=str(await job(connection))))
    assert await numbers(connection, id) == (15, 0, 0)


async def job(connection: asyncpg.Connection) -> object:
    return await connection.fetchval("SELECT id FROM jobs")


async def test_each_of_several_budgets_holds(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    wide = await made(connection, amount=1000)
    narrow = await made(connection, amount=150, model="m", period=BudgetPeriod.DAY)
    other = await made(connection, amount=0, model="n", period=BudgetPeriod.MONTH)
    await ledger.reserve(asked("1"))
    with pytest.raises(BudgetExceeded, match=f"budget {narrow} .*for model m .*for the day"):
        await ledger.reserve(asked("2"))
    await ledger.reserve(asked("3", model_ref="k@1"))
    assert await numbers(connection, wide) == (0, 200, 0)
    assert await numbers(connection, narrow) == (0, 100, 1)
    assert await numbers(connection, other) == (0, 0, 0)


async def test_a_round_takes_turns_by_arrival_and_refuses_nobody_who_fits(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    id = await made(connection, amount=250)
    asks = [asked(f"{9 - n}") for n in range(5)]
    assert (await ledger.reserve(asks[0])).assignment.state is JobState.NEW
    rest = await asyncio.gather(*map(ledger.reserve, asks[1:]), return_exceptions=True)
    assert [isinstance(one, BudgetExceeded) for one in rest] == [False, True, True, True]
    assert await numbers(connection, id) == (0, 200, 3)
