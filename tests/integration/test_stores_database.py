"""Migrations on a real server: equal to schema.sql, forward only, safe for many at once."""

from __future__ import annotations

import asyncio
import subprocess
from importlib import resources

import asyncpg
import pytest

from actors.stores.database import Database, Migration, connect, migrate, migrations
from actors.stores.database_cluster import binaries
from actors.stores.queries import QUERIES
from supervision.errors import Internal, Unavailable


def dump(dsn: str) -> list[str]:
    """The schema as pg_dump tells it, without what differs between any two dumps."""
    program = binaries() / "pg_dump"
    said = subprocess.run(
        [str(program), "--schema-only", "--exclude-table=tether_migrations", f"--dbname={dsn}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = (line for line in said.splitlines() if line.strip() and not line.startswith("--"))
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


async def test_the_schema_for_readers_is_what_the_migrations_make(dsn: str, empty_dsn: str) -> None:
    connection = await connect(empty_dsn)
    await connection.execute(resources.files("actors.stores").joinpath("schema.sql").read_text())
    await connection.close()
    read, migrated = await asyncio.gather(
        asyncio.to_thread(dump, empty_dsn), asyncio.to_thread(dump, dsn)
    )
    assert any("CREATE TABLE public.leases" in line for line in read)
    assert read == migrated


async def test_every_query_is_understood_by_the_server(connection: asyncpg.Connection) -> None:
    for query in QUERIES.values():
        await connection.prepare(query.sql)


async def test_many_may_migrate_at_once_and_one_does(empty_dsn: str) -> None:
    connections = [await connect(empty_dsn) for _ in range(6)]
    try:
        done = await asyncio.gather(*(migrate(c) for c in connections))
        assert sorted(done) == [0] * 5 + [len(migrations())]
        assert await migrate(connections[0]) == 0
    finally:
        for connection in connections:
            await connection.close()


async def test_a_step_that_fails_leaves_nothing_and_the_next_release_goes_on(
    empty_dsn: str,
) -> None:
    connection = await connect(empty_dsn)
    first = Migration(1, "one", "CREATE TABLE one (a integer)")
    bad = Migration(2, "two", "CREATE TABLE two (a integer); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, (first, bad))
    assert await connection.fetchval("SELECT to_regclass('one')") is None
    assert await migrate(connection, (first,)) == 1
    assert await migrate(connection, (first, Migration(2, "two", "CREATE TABLE two ()"))) == 1
    with pytest.raises(Internal, match="is at migration 2, and this release knows only 1"):
        await migrate(connection, (first,))
    changed = Migration(1, "one", "CREATE TABLE one (a bigint)")
    with pytest.raises(Internal, match=r"migration 0001 \(one\) was changed after"):
        await migrate(connection, (changed, Migration(2, "two", "CREATE TABLE two ()")))
    await connection.close()


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ("postgresql://tether@/tether?host=/nowhere/at/all", Unavailable, "can't be reached"),
        ("postgresql://tether@127.0.0.1:1/tether", Unavailable, "can't be reached"),
        ("http://example", Internal, "DSN can't be used"),
    ],
)
async def test_a_dsn_that_leads_nowhere(wrong: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        await Database(wrong).open()


async def test_a_database_that_lets_nobody_in(dsn: str) -> None:
    stranger = dsn.split("&passfile")[0].replace("tether@", "tether:wrong@")
    with pytest.raises(Internal, match=r"doesn't let Tether in .*password"):
        await Database(stranger).open()
    missing = dsn.replace("@/t_", "@/missing_")
    with pytest.raises(Internal, match=r"doesn't let Tether in .*does not exist"):
        await Database(missing).open()


async def test_a_pool_survives_the_loss_of_its_connections(dsn: str) -> None:
    async with Database(dsn) as database:
        pid = await database.fetchval("SELECT pg_backend_pid()")
        killer = await connect(dsn)
        assert await killer.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        await killer.close()
        assert await database.fetchval("SELECT pg_backend_pid()") != pid
        assert [row["n"] for row in await database.fetch("SELECT generate_series(1, 3) AS n")] == [
            1,
            2,
            3,
        ]
        assert await database.execute("DELETE FROM models") == "DELETE 0"
    with pytest.raises(Unavailable, match="not open"):
        await database.fetchval("SELECT 1")
    await database.close()


async def test_a_pool_does_not_wait_for_ever(dsn: str) -> None:
    async with Database(dsn, size=1, timeout_s=2.0) as database:
        with pytest.raises(Unavailable, match="doesn't answer"):
            await database.fetchval("SELECT pg_sleep(60)")
        assert await database.fetchval("SELECT 1") == 1
