"""What stores try again when PostgreSQL drops them, and what they must not."""

from __future__ import annotations

import asyncpg
import pytest

from actors.stores.database import Database, connect, patiently
from supervision.errors import Unavailable

SUICIDE = "nextval('tries'), pg_terminate_backend(pg_backend_pid())"


async def attempts(dsn: str) -> int:
    connection = await connect(dsn)
    try:
        count = await connection.fetchval("SELECT last_value FROM tries WHERE is_called")
    finally:
        await connection.close()
    assert count is None or isinstance(count, int)
    return count or 0


async def made(dsn: str) -> None:
    connection = await connect(dsn)
    await connection.execute("CREATE SEQUENCE tries")
    await connection.close()


async def test_a_read_whose_connection_breaks_is_tried_three_times(dsn: str) -> None:
    await made(dsn)
    async with Database(dsn) as database:
        with pytest.raises(Unavailable, match="doesn't answer"):
            await database.fetchrow(f"SELECT {SUICIDE}")
        assert await attempts(dsn) == 3
        assert await database.fetchval("SELECT 1") == 1, "and the pool goes on"


async def test_what_may_have_taken_effect_is_not_repeated(dsn: str) -> None:
    await made(dsn)
    async with Database(dsn) as database:
        with pytest.raises(Unavailable):
            await database.fetchrow(f"WITH once AS (SELECT {SUICIDE}) SELECT * FROM once")
        assert await attempts(dsn) == 1


async def test_a_server_that_keeps_failing_is_left_alone_and_a_bad_statement_is_not_its_fault(
    dsn: str,
) -> None:
    await made(dsn)
    async with Database(dsn) as database:
        for _ in range(30):
            with pytest.raises(asyncpg.UndefinedTableError):
                await database.fetchval("SELECT 1 FROM nothing")
        assert await database.fetchval("SELECT 1") == 1
    async with Database(dsn) as database:
        for _ in range(8):
            with pytest.raises(Unavailable):
                await database.fetchrow(f"SELECT {SUICIDE}")
        assert 10 <= await attempts(dsn) <= 18, "8 calls of 3 attempts, had the breaker not opened"


async def test_patience_ends() -> None:
    nowhere = Database("postgresql://x@/x?host=/nonexistent-directory")
    with pytest.raises(Unavailable, match="can't be reached"):
        await nowhere.open()
    with pytest.raises(Unavailable, match="can't be reached"):
        await nowhere.open(0.3)


async def test_patience_is_for_what_is_away_and_tells_of_it() -> None:
    told: list[str] = []
    answers = iter([Unavailable("starts"), Unavailable("starts", retry_after_s=60.0), "here"])

    async def reach() -> str:
        answer = next(answers)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    assert await patiently(reach, 5.0, lambda error, _: told.append(str(error))) == "here"
    assert told == ["starts", "starts"]
