"""Bills that are only added to, names that stay, rows taken in one order: two ledgers on one real
database."""

from __future__ import annotations

import asyncio

import asyncpg
import msgspec
import pytest

from actors.contracts import HeldJob, JobState, Outcome, Renew, Settle, Usage
from actors.stores.database import connect
from actors.stores.ledger import Ledger, LedgerOptions
from actors.stores.queries import sql
from tests.support.messages import changed, reserve
from tests.support.open_jobs import Open, still_open
from tests.support.waiting import NEVER_S, PATIENCE_S

PATIENT = LedgerOptions(
    reserve_patience_s=PATIENCE_S, settle_patience_s=PATIENCE_S, statement_s=PATIENCE_S
)
QUIET = msgspec.structs.replace(PATIENT, sweep_s=NEVER_S)
SHORT = msgspec.structs.replace(PATIENT, lease_s=0.5, sweep_s=0.02)


def settle(
    job: str, token: int, outcome: Outcome, output: int, *, delivered: bool = False
) -> Settle:
    return Settle(
        job_id=job,
        fencing_token=token,
        outcome=outcome,
        usage=Usage(prompt_tokens=7, completion_tokens=output),
        delivered=delivered,
    )


async def entries(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    rows = await connection.fetch(
        "SELECT number, kind, attempt, prompt_tokens, output_tokens FROM ledger ORDER BY seq"
    )
    return [tuple(row) for row in rows]


async def until_no_lease(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await still_open(connection)).leases:  # noqa: ASYNC110 (it lies in PostgreSQL)
            await asyncio.sleep(0.02)


async def test_what_was_delivered_is_billed_under_the_id_that_it_was_asked_with(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """A job was closed as cancelled after 3 tokens, its key was retried; and then who had read all
    of the first answer says so. (It was billed as 3: the retry had given the job another id.)"""
    async with Ledger(dsn, QUIET) as ledger:
        first = (await ledger.reserve(reserve(claim_token=1))).assignment
        assert (await ledger.settle(settle(first.job_id, 1, Outcome.CANCELLED, 3))).first
        again = (await ledger.reserve(reserve(claim_token=2, worker_id="w2"))).assignment
        assert (again.state, again.fencing_token) == (JobState.NEW, 2)
        whole = settle(first.job_id, 1, Outcome.COMPLETED, 300, delivered=True)
        assert (await ledger.settle(whole)).first
        assert not (await ledger.settle(whole)).first
        assert await connection.fetchval("SELECT sum(output_tokens) FROM ledger") == 300
        assert again.job_id == first.job_id
    assert await entries(connection) == [(1, "charge", 1, 7, 3), (2, "correction", 1, 0, 297)]
    job = await connection.fetchrow("SELECT entries, billed_prompt, billed_output FROM jobs")
    assert tuple(job) == (2, 7, 300)
    assert await still_open(connection) == Open(running=0, leases=0, overdue=0)


async def test_no_entry_moves_into_another_period(dsn: str, connection: asyncpg.Connection) -> None:
    """What was billed in one is there whatever comes later, and later is the difference alone."""
    async with Ledger(dsn, QUIET) as ledger:
        given = (await ledger.reserve(reserve(claim_token=1))).assignment
        await ledger.settle(settle(given.job_id, 1, Outcome.CANCELLED, 100))
        border = await connection.fetchval("SELECT clock_timestamp()")
        await ledger.reserve(reserve(claim_token=2))
        await ledger.settle(settle(given.job_id, 2, Outcome.COMPLETED, 120))
    period = "SELECT coalesce(sum(output_tokens), 0) FROM ledger WHERE at {} $1"
    assert await connection.fetchval(period.format("<"), border) == 100
    assert await connection.fetchval(period.format(">="), border) == 20


@pytest.mark.parametrize("statement", ["UPDATE ledger SET micros = 1", "DELETE FROM ledger"])
async def test_not_even_its_owner_changes_an_entry(
    dsn: str, connection: asyncpg.Connection, statement: str
) -> None:
    async with Ledger(dsn, QUIET) as ledger:
        given = (await ledger.reserve(reserve())).assignment
        await ledger.settle(settle(given.job_id, 1, Outcome.COMPLETED, 5))
    month = await connection.fetchval("SELECT tableoid::regclass::text FROM ledger")
    for refused in (statement, "TRUNCATE ledger", f"TRUNCATE {month}"):
        with pytest.raises(asyncpg.RestrictViolationError, match="only ever added to"):
            await connection.execute(refused)
    assert await entries(connection) == [(1, "charge", 1, 7, 5)]


async def test_a_broken_off_answer_makes_no_bill_less_and_closes_its_job(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Ledger(dsn, QUIET) as ledger:
        given = (await ledger.reserve(reserve(claim_token=1))).assignment
        await ledger.settle(settle(given.job_id, 1, Outcome.CANCELLED, 100))
        await ledger.reserve(reserve(claim_token=2))
        assert (await ledger.settle(settle(given.job_id, 2, Outcome.CANCELLED, 40))).first
    assert await entries(connection) == [(1, "charge", 1, 7, 100)]
    assert await connection.fetchval("SELECT state FROM jobs") == "settled"


async def test_corrections_from_two_ledgers_at_once_are_numbered_one_after_the_other(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Ledger(dsn, QUIET) as one, Ledger(dsn, QUIET) as two:
        for n in range(20):
            token = f"t{n}"
            given = (await one.reserve(reserve(token, claim_token=1))).assignment
            await one.settle(settle(given.job_id, 1, Outcome.CANCELLED, 1))
            await two.reserve(reserve(token, claim_token=2))
            told = [settle(given.job_id, 2, Outcome.COMPLETED, 9, delivered=True) for _ in range(6)]
            answers = await asyncio.gather(
                *((one, two)[i % 2].settle(m) for i, m in enumerate(told))
            )
            assert sum(answer.first for answer in answers) == 1
    assert await entries(connection) == [
        entry for _ in range(20) for entry in ((1, "charge", 1, 7, 1), (2, "correction", 2, 0, 8))
    ]


async def test_two_ledgers_take_the_same_rows_in_opposite_orders_without_a_deadlock(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """200 keys, 20 rounds: reserves, reserves of taken keys, moves, and settles."""
    before = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    deadlocks = await connection.fetchval(before)
    async with Ledger(dsn, QUIET) as one, Ledger(dsn, QUIET) as two:
        for n in range(20):
            asks = [reserve(f"{n}-{i}", claim_token=2 * i + 1) for i in range(200)]
            others = [reserve(f"{n}-{i}", claim_token=2 * i + 2) for i in reversed(range(200))]
            given = await asyncio.gather(*map(one.reserve, asks), *map(two.reserve, others))
            jobs = {g.assignment.job_id: g.assignment for g in given}
            assert len(jobs) == 200
            told = [
                settle(job, a.fencing_token, Outcome.COMPLETED, 5, delivered=True)
                for job, a in jobs.items()
            ]
            closed = await asyncio.gather(*map(one.settle, told), *map(two.settle, reversed(told)))
            assert sum(answer.first for answer in closed) == 200
    await asyncio.sleep(1.0)  # backends tell their counts at most once a second
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    assert await connection.fetchval(before) == deadlocks
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 4000


async def test_leases_that_match_no_job_are_deleted_and_stop_no_sweep(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """600 of jobs that were settled, or given to others; and one of a job whose holders died."""
    async with Ledger(dsn, QUIET) as ledger:
        gone = (await ledger.reserve(reserve("settled"))).assignment
        await ledger.settle(settle(gone.job_id, 1, Outcome.COMPLETED, 5))
        await ledger.reserve(reserve("died"))
    await connection.execute(
        "INSERT INTO leases SELECT gen_random_uuid(), 'w', 'n/w/1', 1, now() - interval '1 hour' "
        "FROM generate_series(1, 600)"
    )
    await connection.execute(
        "INSERT INTO leases VALUES ($1::text::uuid, 'w', 'n/w/1', 1, now())", gone.job_id
    )
    await connection.execute("UPDATE leases SET expires_at = least(expires_at, now())")
    async with Ledger(dsn, SHORT):
        await until_no_lease(connection)
    states = await connection.fetch("SELECT retry_token, outcome FROM jobs ORDER BY 1")
    assert [tuple(row) for row in states] == [("died", "expired"), ("settled", "completed")]


async def test_a_lease_lives_as_long_as_somebody_renews_it(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """Whatever its request's deadline; and not by what others say of it."""
    async with Ledger(dsn, SHORT) as ledger, Ledger(dsn, SHORT) as other:
        kept = (await ledger.reserve(reserve("kept", worker_address="n1/w1/1"))).assignment
        left = (await ledger.reserve(reserve("left", deadline_s=3600.0))).assignment
        held = HeldJob(job_id=kept.job_id, fencing_token=1, emitted=17)
        lie = HeldJob(job_id=left.job_id, fencing_token=1)
        over = asyncio.get_running_loop().time() + 3.0
        while asyncio.get_running_loop().time() < over:
            assert (await other.renew(Renew(jobs=(held,)), "n1")).gone == ()
            assert (await other.renew(Renew(jobs=(lie,)), "n7")).gone == (left.job_id,)
            await asyncio.sleep(0.1)
        assert await connection.fetchval("SELECT array_agg(emitted) FROM leases") == [17]
        outcomes = dict(await connection.fetch("SELECT retry_token, outcome FROM jobs"))
        assert outcomes == {"kept": None, "left": "expired"}
        stale = HeldJob(job_id=kept.job_id, fencing_token=2)
        assert (await ledger.renew(Renew(jobs=(stale,)))).gone == (kept.job_id,)


async def test_one_reservation_sweeps_and_another_takes_over(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async def sweepers() -> int:
        count = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return int(count)

    async with Ledger(dsn, SHORT) as second:
        async with Ledger(dsn, SHORT) as first:
            await first.reserve(reserve("one"))
            await until_no_lease(connection)
            assert await sweepers() == 1
        await second.reserve(reserve("two"))
        await until_no_lease(connection)
        assert await sweepers() == 1


async def test_an_attempt_that_was_left_is_kept_and_goes_with_its_job(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Ledger(dsn, QUIET) as ledger:
        asked = reserve(worker_address="n1/w1/1")
        given = (await ledger.reserve(asked)).assignment
        held = HeldJob(job_id=given.job_id, fencing_token=1, emitted=40)
        await connection.execute("UPDATE leases SET expires_at = now()")
        await ledger.renew(Renew(jobs=(held,)))
        await ledger.reserve(changed(asked, attempt=2, worker_address="n2/w2/1"))
        await ledger.settle(settle(given.job_id, 2, Outcome.COMPLETED, 60))
    rows = await connection.fetch(
        "SELECT number, node, emitted, ended FROM job_attempts ORDER BY number"
    )
    assert [tuple(row) for row in rows] == [(1, "n1", 40, "moved"), (2, "n2", 60, "completed")]
    await connection.execute("UPDATE jobs SET settled_at = now() - interval '1 hour'")
    last = "ffffffff-ffff-7fff-bfff-ffffffffffff"
    assert await connection.fetchval(sql("prune_jobs"), last, 60.0, 10) == 1
    assert await connection.fetchval("SELECT count(*) FROM attempts") == 0


async def test_a_job_has_the_price_of_its_reserve_and_its_budgets_are_settled_with_it(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """Held while it runs, given back when it is closed or swept, and spent once."""
    async with Ledger(dsn, QUIET) as ledger:
        given = (await ledger.reserve(reserve("t"))).assignment
    await connection.execute("INSERT INTO tenants (id) VALUES ('acme')")
    for unit in ("micros", "tokens"):
        await connection.execute(
            "WITH b AS (INSERT INTO budgets (tenant_id, period, unit, amount) "
            "VALUES ('acme', 'total', $1, 1000) RETURNING id) "
            "INSERT INTO budget_periods (budget_id, begins, reserved) "
            "SELECT id, now(), CASE $1 WHEN 'micros' THEN 500 ELSE 100 END FROM b",
            unit,
        )
    price = await connection.fetchval(
        "INSERT INTO prices (model, currency, prompt, cached, reasoning, output, request) "
        "VALUES ('m', 'EUR', 1000000, 500000, 0, 2000000, 10) RETURNING version"
    )
    budgets = "ARRAY(SELECT id FROM budget_periods ORDER BY id)"

    async def periods() -> list[tuple[int, int]]:
        rows = await connection.fetch("SELECT spent, reserved FROM budget_periods ORDER BY id")
        return [tuple(row) for row in rows]

    await connection.execute(
        f"UPDATE jobs SET price = {price}, budgets = {budgets}, held_micros = 500, "
        "held_tokens = 100"
    )
    async with Ledger(dsn, SHORT) as ledger:
        await connection.execute("UPDATE leases SET expires_at = now()")
        await until_no_lease(connection)
        assert await periods() == [(0, 0), (0, 0)]
        used = Usage(prompt_tokens=7, completion_tokens=20, cached_tokens=4)
        late = msgspec.structs.replace(settle(given.job_id, 1, Outcome.COMPLETED, 20), usage=used)
        assert (await ledger.settle(late)).first
        # 10 + 3 x 1 + 4 x 0.5 + 20 x 2
        assert await periods() == [(55, 0), (27, 0)]
    row = await connection.fetchrow("SELECT micros, price, currency, cached_tokens FROM ledger")
    assert tuple(row) == (55, price, "EUR", 4)


async def test_a_backend_that_dies_between_two_statements_bills_once(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """The round was committed, its answer lost: the settle is told again, on another connection."""
    async with Ledger(dsn, QUIET) as ledger:
        given = (await ledger.reserve(reserve())).assignment
        told = settle(given.job_id, 1, Outcome.COMPLETED, 5, delivered=True)
        await ledger.settle(told)
        killer = await connect(dsn)
        await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await killer.close()
        assert not (await ledger.settle(told)).first
    fresh = await connect(dsn)
    assert await entries(fresh) == [(1, "charge", 1, 7, 5)]
    await fresh.close()
