"""What a ledger deletes, and what it doesn't."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import msgspec
import pytest

from actors.contracts import JobState, Outcome, Reserve, Settle, Usage
from actors.core.ids import job_id
from actors.stores.jobs import Desk
from actors.stores.ledger import Ledger, LedgerOptions
from actors.stores.queries import sql
from actors.stores.shared_desk import SharedDesk
from actors.stores.upkeep import Upkeep
from tests.support import messages

DAY_S = 86_400.0
NEVER_S = 3600.0
OPTIONS = LedgerOptions(
    keep_jobs_s=2 * DAY_S, prune_batch=7, prune_s=NEVER_S, reserve_patience_s=60.0, statement_s=60.0
)


def reserve(token: str, days_ago: float) -> Reserve:
    made = job_id(clock=lambda: time.time_ns() - int(days_ago * DAY_S * 1e9))
    return messages.reserve(token, job_id=made)


async def settled(
    ledger: Ledger, connection: asyncpg.Connection, token: str, days_ago: float
) -> str:
    """A job that was asked for and answered so long ago."""
    given = (await ledger.reserve(reserve(token, days_ago))).assignment
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    await ledger.settle(
        Settle(job_id=given.job_id, fencing_token=1, outcome=Outcome.COMPLETED, usage=usage)
    )
    await connection.execute(
        f"UPDATE jobs SET settled_at = now() - interval '{days_ago} days' "
        "WHERE id = $1::text::uuid",
        given.job_id,
    )
    return given.job_id


async def pruned(dsn: str, options: LedgerOptions) -> dict[str, int]:
    async def open_desk() -> Desk:
        return await Desk.open(dsn, lease_s=60.0, timeout_s=60.0)

    desk = await open_desk()
    try:
        shared = SharedDesk(open_desk)
        return await Upkeep(options, shared, open_desk, lambda: None).prune_once(desk)
    finally:
        desk.close()


async def tokens(connection: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await connection.fetch("SELECT retry_token FROM jobs")}


async def test_old_settled_jobs_go_and_what_was_billed_stays(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Ledger(dsn, OPTIONS) as ledger:
        for n in range(23):
            await settled(ledger, connection, f"old{n}", 3.0 + n)
        await settled(ledger, connection, "young", 1.0)
        await ledger.reserve(reserve("runs since long", 5.0))
        late = await settled(ledger, connection, "asked long ago", 4.0)
        await connection.execute(
            "UPDATE jobs SET settled_at = now() WHERE id = $1::text::uuid", late
        )
        assert await pruned(dsn, OPTIONS) == {"jobs": 23, "months": 0, "answers": 0}
        assert await tokens(connection) == {"young", "runs since long", "asked long ago"}
        assert await pruned(dsn, OPTIONS) == {"jobs": 0, "months": 0, "answers": 0}
        assert await connection.fetchval("SELECT count(*) FROM ledger") == 25
        anew = (await ledger.reserve(reserve("old3", 0.0))).assignment
        assert (anew.fencing_token, anew.state) == (1, JobState.NEW), "its retry token is forgotten"


async def test_the_ledger_goes_by_months_only_where_it_is_said(
    dsn: str, connection: asyncpg.Connection
) -> None:
    for days in (0, 40, 100, 400):
        await connection.execute(f"SELECT ledger_make_partition(now() - interval '{days} days')")
        await connection.execute(
            "INSERT INTO ledger (at, job_id, number, kind, tenant_id, model_ref, attempt, outcome, "
            "prompt_tokens, output_tokens) VALUES "
            f"(now() - interval '{days} days', gen_random_uuid(), 1, 'charge', 'acme', 'm@1', 1, "
            "'completed', 3, 5)"
        )
    options = msgspec.structs.replace(OPTIONS, keep_ledger_s=90 * DAY_S)
    assert await pruned(dsn, OPTIONS) == {"jobs": 0, "months": 0, "answers": 0}
    # What is kept is whole months: that of 100 days ago may have ended less than 90 days ago.
    assert (await pruned(dsn, options))["months"] in (1, 2)
    left = [row[0] for row in await connection.fetch("SELECT now() - at FROM ledger ORDER BY at")]
    assert [age.days for age in left[-2:]] == [40, 0]
    assert all(age.days < 123 for age in left)
    assert await pruned(dsn, options) == {"jobs": 0, "months": 0, "answers": 0}


async def test_a_job_that_is_taken_up_again_right_now_is_left_alone(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Ledger(dsn, OPTIONS) as ledger:
        await settled(ledger, connection, "held", 3.0)
        await settled(ledger, connection, "free", 3.0)
    async with connection.transaction():
        await connection.execute("SELECT FROM jobs WHERE retry_token = 'held' FOR UPDATE")
        assert await pruned(dsn, OPTIONS) == {"jobs": 1, "months": 0, "answers": 0}
    assert await tokens(connection) == {"held"}


async def test_an_open_ledger_deletes_by_itself(dsn: str, connection: asyncpg.Connection) -> None:
    options = msgspec.structs.replace(OPTIONS, prune_s=0.02)
    async with Ledger(dsn, options) as ledger:
        await settled(ledger, connection, "young", 1.0)
        await settled(ledger, connection, "old", 3.0)
        async with asyncio.timeout(60):
            while await tokens(connection) != {"young"}:  # noqa: ASYNC110 (it lies in PostgreSQL)
                await asyncio.sleep(0.01)


async def test_old_rows_are_found_by_their_key(dsn: str) -> None:
    """However many there are: a look must not read them all."""
    desk = await Desk.open(dsn, lease_s=60.0, timeout_s=60.0)
    try:
        statement = sql("prune_jobs").replace("$1", f"'{job_id()}'::uuid")
        statement = statement.replace("$2", "1.0").replace("$3", "10")
        plan = "\n".join(r[0] for r in await desk.connection.fetch(f"EXPLAIN {statement}"))
        assert "jobs_pkey" in plan, plan
        assert "Seq Scan" not in plan, plan
    finally:
        desk.close()


def test_a_retry_token_is_known_for_a_day_at_least() -> None:
    with pytest.raises(ValueError, match="keep_jobs_s of the reservation must be at least 86400"):
        LedgerOptions(keep_jobs_s=60.0)
    with pytest.raises(ValueError, match="keep_ledger_s of the reservation must be above 0"):
        LedgerOptions(keep_ledger_s=-1.0)
    for jobs, ledger in ((0.0, DAY_S), (2 * DAY_S, DAY_S)):
        with pytest.raises(ValueError, match="kept as long as its job"):
            LedgerOptions(keep_jobs_s=jobs, keep_ledger_s=ledger)
