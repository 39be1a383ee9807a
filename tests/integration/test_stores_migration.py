"""Migration 10 on a database that the release before has filled: nothing is lost, and one that is
cut leaves what was there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from actors.contracts import JobState, Outcome, Settle, Usage
from actors.core.ids import job_id
from actors.stores.database import Migration, connect, migrate, migrations
from actors.stores.ledger import Ledger
from tests.support.messages import reserve

BEFORE = migrations()[:9]
MONEY = migrations()[:10]
JOBS = 60

#: What 0009's rows were like: running, moved, settled in each way, taken up again after a bill.
FILL = """
    INSERT INTO tenants (id) VALUES ('acme');
    INSERT INTO jobs (id, tenant_id, retry_token, fingerprint, model_ref, state, outcome, attempt,
                      fence, worker_id, worker_address, prompt_tokens, completion_tokens, finish,
                      created_at, settled_at, claim, former_nodes)
    SELECT i.id, 'acme', 'token-' || i.n, 'body', 'm@1',
        CASE WHEN i.n % 6 IN (0, 1, 2) THEN 'running' ELSE 'settled' END,
        CASE i.n % 6 WHEN 3 THEN 'completed' WHEN 4 THEN 'cancelled' WHEN 5 THEN 'expired' END,
        1 + i.n % 3, CASE i.n % 6 WHEN 1 THEN 3 WHEN 2 THEN 5 ELSE 1 END, 'w1', 'n1/w1/1',
        i.n % 6, 10 * i.n, '', now() - i.n * interval '3 days',
        CASE WHEN i.n % 6 IN (0, 1, 2) THEN NULL ELSE now() - i.n * interval '3 days' END, i.n,
        CASE i.n % 6 WHEN 1 THEN '{n2,n3}'::text[] WHEN 2 THEN '{n3,n2}'::text[] ELSE '{}' END
    FROM unnest($1::uuid[]) WITH ORDINALITY AS i (id, n);
"""
BILLS = """
    INSERT INTO ledger (job_id, tenant_id, model_ref, prompt_tokens, completion_tokens, at)
    SELECT id, tenant_id, model_ref, 7, 10 * attempt, created_at FROM jobs
    WHERE outcome IN ('completed', 'cancelled') OR state = 'running' AND fence = 3;
    INSERT INTO ledger (job_id, tenant_id, model_ref, prompt_tokens, completion_tokens, at)
    SELECT gen_random_uuid(), 'gone', 'm@1', 1, 2, now() - n * interval '20 days'
    FROM generate_series(1, 20) AS n;
    INSERT INTO leases (job_id, worker_id, worker_address, fence, expires_at)
    SELECT id, worker_id, worker_address, fence, now() + interval '100 s' FROM jobs
    WHERE state = 'running';
"""
OLD_JOBS = """SELECT id, tenant_id, retry_token, fingerprint, model_ref, state, outcome, attempt,
    fence, worker_id, worker_address, prompt_tokens, completion_tokens, finish, error_code,
    created_at, settled_at, claim FROM jobs ORDER BY id"""
OLD_LEASES = "SELECT job_id, worker_id, worker_address, fence, expires_at FROM leases ORDER BY 1"
OLD_BILLS = """SELECT job_id, tenant_id, model_ref, prompt_tokens, {} AS output, at
    FROM ledger ORDER BY at, job_id"""


async def filled(dsn: str) -> asyncpg.Connection:
    connection = await connect(dsn)
    await migrate(connection, BEFORE)
    insert_tenant, insert_jobs = FILL.split(";")[:2]
    await connection.execute(insert_tenant)
    await connection.execute(insert_jobs, [job_id() for _ in range(JOBS)])
    await connection.execute(BILLS)
    return connection


async def all_of(connection: asyncpg.Connection, output: str) -> list[list[tuple[object, ...]]]:
    return [
        [tuple(row) for row in await connection.fetch(query)]
        for query in (OLD_JOBS, OLD_LEASES, OLD_BILLS.format(output))
    ]


async def test_nothing_is_lost(empty_dsn: str) -> None:
    connection = await filled(empty_dsn)
    before = await all_of(connection, "completion_tokens")
    assert [len(rows) for rows in before] == [60, 30, 50]
    assert await migrate(connection, MONEY) == 1
    assert await all_of(connection, "output_tokens") == before
    # One charge for each bill, numbered in the order of time, in the partition of its month.
    rows = await connection.fetch("SELECT DISTINCT number, kind, micros, currency FROM ledger")
    assert [tuple(row) for row in rows] == [(1, "charge", 0, "")]
    by_time = await connection.fetch("SELECT seq FROM ledger ORDER BY at, job_id")
    assert [row["seq"] for row in by_time] == list(range(1, 51))
    months = await connection.fetch(
        "SELECT DISTINCT tableoid::regclass::text, to_char(at AT TIME ZONE 'UTC', 'YYYY_MM') "
        "FROM ledger"
    )
    assert len(months) > 10
    assert all(partition == f"ledger_{month}" for partition, month in months)
    outcomes = dict(await connection.fetch("SELECT outcome, count(*) FROM ledger GROUP BY outcome"))
    # Of a job that runs again, it was the cancelled run that was billed.
    assert outcomes == {"": 20, "completed": 10, "cancelled": 20}
    wrong = await connection.fetchval(
        "SELECT count(*) FROM jobs j LEFT JOIN ledger l ON l.job_id = j.id "
        "WHERE (j.entries, j.billed_prompt, j.billed_output, j.billed_micros) IS DISTINCT FROM "
        "(count_of(l), coalesce(l.prompt_tokens, 0), coalesce(l.output_tokens, 0), 0)".replace(
            "count_of(l)", "(l.job_id IS NOT NULL)::int"
        )
    )
    assert wrong == 0
    # Where a job has been: all of it where that is known, in any case the last.
    left = await connection.fetch(
        "SELECT j.fence, a.number, a.node, count(*) FROM attempts a JOIN jobs j ON j.id = a.job_id "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2"
    )
    assert [tuple(row) for row in left] == [(3, 1, "n2", 10), (3, 2, "n3", 10), (5, 4, "n2", 10)]
    await connection.close()


async def test_what_ran_is_settled_and_what_is_retried_is_led_after_it(empty_dsn: str) -> None:
    """By workers of nodes that have had it, too."""
    connection = await filled(empty_dsn)
    await migrate(connection)
    rows = await connection.fetch("SELECT id::text, retry_token, fence, outcome FROM jobs")
    async with Ledger(empty_dsn) as ledger:
        for row in rows:
            if row["outcome"] is None:
                delivered = row["fence"] > 1
                settle = Settle(
                    job_id=row["id"],
                    fencing_token=row["fence"] - delivered,
                    outcome=Outcome.COMPLETED,
                    usage=Usage(prompt_tokens=7, completion_tokens=100),
                    delivered=delivered,
                )
                node = {1: "n1", 3: "n3", 5: "n2"}[row["fence"]]
                assert not (await ledger.settle(settle, "n9")).first
                assert (await ledger.settle(settle, node)).first
        known = (await ledger.reserve(reserve("token-3", fingerprint=b"body"))).assignment
        assert known.state is JobState.COMPLETED
        anew = (await ledger.reserve(reserve("token-5", fingerprint=b"body"))).assignment
        assert (anew.state, anew.fencing_token) == (JobState.NEW, 2)
        assert anew.job_id in {row["id"] for row in rows}
    bills = await connection.fetch("SELECT sum(output_tokens) FROM ledger GROUP BY job_id")
    assert sorted(row[0] for row in bills).count(100) == 30
    await connection.close()


async def killed(connection: asyncpg.Connection, dsn: str) -> None:
    """Its backend is killed in the middle of the migration's work."""
    pid = connection.get_server_pid()
    working = asyncio.ensure_future(migrate(connection, (*BEFORE, cut("SELECT pg_sleep(3600)"))))
    killer = await connect(dsn)
    async with asyncio.timeout(60):
        while not await killer.fetchval(  # noqa: ASYNC110 (no event crosses from the server)
            "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", pid
        ):
            await asyncio.sleep(0.01)
    await killer.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    await killer.close()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await working


async def failed(connection: asyncpg.Connection, dsn: str) -> None:
    """Its last statement is refused."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, (*BEFORE, cut("SELECT 1 / 0")))


def cut(by: str) -> Migration:
    """Migration 10 with something else in place of its last statements."""
    number, name, sql = migrations()[9]
    whole, mark, _ = sql.partition("CREATE TABLE ledger_blocks")
    assert mark
    return Migration(number, name, f"{whole}{by};")


@pytest.mark.parametrize("ends", [killed, failed])
async def test_one_that_is_cut_leaves_what_was_there(
    empty_dsn: str, ends: Callable[[asyncpg.Connection, str], Awaitable[None]]
) -> None:
    connection = await filled(empty_dsn)
    before = await all_of(connection, "completion_tokens")
    await ends(connection, empty_dsn)
    fresh = await connect(empty_dsn)
    assert await fresh.fetchval("SELECT max(number) FROM tether_migrations") == 9
    assert await fresh.fetchval("SELECT to_regclass('attempts')") is None
    assert await all_of(fresh, "completion_tokens") == before
    assert await migrate(fresh, MONEY) == 1
    assert await all_of(fresh, "output_tokens") == before
    await fresh.close()
    connection.terminate()
