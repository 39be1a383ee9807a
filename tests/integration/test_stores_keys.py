"""API keys on a real server: shown once, found by hash, and caches told when they end."""

from __future__ import annotations

import asyncio
import hashlib

import asyncpg
import pytest

from actors.stores import keys
from supervision.errors import BadRequest
from tests.support.waiting import PATIENCE_S


async def test_a_key_is_made_found_listed_and_ended(connection: asyncpg.Connection) -> None:
    made = await keys.create(connection, "acme", "for the laptop")
    assert keys.tenant_of(made.text) == "acme"
    assert made.text.startswith(made.key.prefix)
    assert len(made.text) - len(made.key.prefix) == 37
    grant = await keys.find(connection, hashlib.sha256(made.text.encode()).digest())
    assert grant == keys.Grant(key_id=made.key.id, tenant_id="acme")
    assert await keys.listed(connection) == [made.key]
    assert await keys.listed(connection, "other") == []
    assert await keys.revoke(connection, made.key.prefix) == [made.key.id]
    assert await keys.revoke(connection, made.key.id) == []
    assert await keys.find(connection, keys.digest(made.text)) is None
    (listed,) = await keys.listed(connection)
    assert listed.revoked_at is not None


async def test_the_key_itself_is_stored_nowhere(connection: asyncpg.Connection) -> None:
    made = await keys.create(connection, "acme")
    stored = str(await connection.fetch("SELECT k::text FROM api_keys k"))
    assert made.text[-43:] not in stored
    assert made.key.prefix in stored


@pytest.mark.parametrize("how", ["id", "text", "prefix"])
async def test_a_key_is_ended_by_any_of_its_names(connection: asyncpg.Connection, how: str) -> None:
    tenant = "t" * 64  # its prefix is longer than many a whole key
    made, other = await keys.create(connection, tenant), await keys.create(connection, tenant)
    named = {"id": made.key.id, "text": made.text, "prefix": made.key.prefix}[how]
    assert await keys.revoke(connection, named) == [made.key.id]
    assert await keys.find(connection, keys.digest(other.text)) is not None


async def test_limits_come_with_the_key(connection: asyncpg.Connection) -> None:
    made = await keys.create(connection, "acme")
    await keys.limit(connection, "acme", requests_per_minute=5, max_concurrency=2)
    grant = await keys.find(connection, keys.digest(made.text))
    assert grant is not None
    assert (grant.requests_per_minute, grant.tokens_per_minute, grant.max_concurrency) == (
        5,
        None,
        2,
    )
    await keys.limit(connection, "new")
    with pytest.raises(BadRequest, match="limits are numbers from 1"):
        await keys.limit(connection, "acme", tokens_per_minute=0)


@pytest.mark.parametrize("tenant", ["", "Acme", "-a", "a-", "a b", "ä", "x" * 65, "a'; DROP"])
async def test_a_tenant_must_have_a_plain_name(connection: asyncpg.Connection, tenant: str) -> None:
    with pytest.raises(BadRequest, match="can't be a tenant"):
        await keys.create(connection, tenant)
    assert await connection.fetchval("SELECT count(*) FROM tenants") == 0


async def test_caches_are_told_and_told_again_after_a_loss(
    dsn: str, connection: asyncpg.Connection
) -> None:
    told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
    watching = asyncio.create_task(
        keys.watch(
            dsn,
            key=lambda hashed: told.put_nowait(("key", hashed)),
            tenant=lambda tenant: told.put_nowait(("tenant", tenant)),
            everything=lambda: told.put_nowait(("everything", None)),
            again_s=0.01,
        )
    )

    async def next_word() -> tuple[str, object]:
        return await asyncio.wait_for(told.get(), PATIENCE_S)

    try:
        assert await next_word() == ("everything", None)
        made = await keys.create(connection, "acme")
        await keys.revoke(connection, made.key.id)
        assert await next_word() == ("key", keys.digest(made.text))
        await keys.limit(connection, "acme", tokens_per_minute=9)
        assert await next_word() == ("tenant", "acme")
        await connection.execute("DELETE FROM api_keys")  # by hand, as an operator may
        assert await next_word() == ("key", keys.digest(made.text))
        ended = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        assert ended == 1
        assert await next_word() == ("everything", None)
        other = await keys.create(connection, "acme")
        await keys.revoke(connection, other.key.id)
        assert await next_word() == ("key", keys.digest(other.text))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
