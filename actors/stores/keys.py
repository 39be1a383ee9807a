"""API keys: made, listed, ended, and found by their hash.

A key's text is `tether-<tenant>-<secret>`, the secret 256 random bits as 43 characters of
URL-safe base64. It names its tenant, so a front door can choose a gateway without a lookup.
Stored is its SHA-256, not argon2: a slow hash protects secrets that can be guessed, and 2²⁵⁶
can't be; it would only make the first request of every key slow.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import asyncpg
import msgspec

from actors.core.ids import job_id as time_ordered_id
from actors.stores.database import LOST, connect
from actors.stores.queries import sql
from supervision.errors import BadRequest, TetherError, Unauthenticated, Unavailable
from supervision.policies import Retry, RetryOptions, Stack
from supervision.policies.async_driver import Attempt, run

_TENANT = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?")
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_SHOWN = 6  # characters of the secret that a list shows; 220 bits stay unknown


class DatabaseConnection(Protocol):
    """What the functions need: an asyncpg connection, a pool, or a `Database`."""

    async def fetch(self, statement: str, *args: Any) -> list[Any]: ...
    async def fetchrow(self, statement: str, *args: Any) -> Any: ...
    async def execute(self, statement: str, *args: Any) -> str: ...


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as a list shows it. `prefix` is its beginning, enough to tell keys apart."""

    id: str
    tenant_id: str
    prefix: str
    name: str
    created_at: datetime
    revoked_at: datetime | None = None
    operator: bool = False


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made. `text` is the only copy."""

    key: ApiKey
    text: str


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a key is good for. A limit that is None is the configuration's default; `operator`: it
    may change the registry of models."""

    key_id: str
    tenant_id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    operator: bool = False


def digest(text: str) -> bytes:
    """The 32 bytes that are stored and looked up."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def tenant_of(text: str) -> str:
    """The tenant that a key names, without asking whether the key exists.

    Raises:
        Unauthenticated: it doesn't look like a key.
    """
    head, tenant, secret = text[:7], text[7:-44], text[-43:]
    if (
        head != "tether-"
        or text[-44:-43] != "-"
        or not _TENANT.fullmatch(tenant)
        or not _SECRET.fullmatch(secret)
    ):
        raise Unauthenticated(
            "this is not an API key of Tether; make one with `tether keys create`"
        )
    return tenant


async def create(
    connection: DatabaseConnection, tenant_id: str, name: str = "", *, operator: bool = False
) -> NewKey:
    """Make a key, and its tenant if there is none. An `operator`'s may change the registry.

    Raises:
        BadRequest: the tenant's name can't be one, or the key's name is too long.
    """
    _check_tenant(tenant_id)
    if len(name) > 200 or "\0" in name:
        raise BadRequest("a key's name has at most 200 characters", param="name")
    secret = secrets.token_urlsafe(32)
    text = f"tether-{tenant_id}-{secret}"
    key_id, prefix = time_ordered_id(), text[: -len(secret) + _SHOWN]
    await connection.execute(sql("add_tenant"), tenant_id)
    row = await connection.fetchrow(
        sql("add_key"), key_id, tenant_id, digest(text), prefix, name, operator
    )
    key = ApiKey(
        id=key_id,
        tenant_id=tenant_id,
        prefix=prefix,
        name=name,
        created_at=row["created_at"],
        operator=operator,
    )
    return NewKey(key=key, text=text)


async def listed(connection: DatabaseConnection, tenant_id: str | None = None) -> list[ApiKey]:
    """All keys, or those of one tenant, oldest first, revoked ones included."""
    return [ApiKey(**dict(row)) for row in await connection.fetch(sql("list_keys"), tenant_id)]


async def revoke(connection: DatabaseConnection, key: str) -> list[str]:
    """End a key, given as its id, its prefix or its text; returns the ids of those ended (none
    if there was no such key, or it had ended before). Caches hear of it by NOTIFY."""
    if key.startswith("tether-") and len(key) > 50:
        grant = await find(connection, digest(key))
        key = grant.key_id if grant is not None else key
    return [row["id"] for row in await connection.fetch(sql("revoke_key"), key)]


async def find(connection: DatabaseConnection, hashed: bytes) -> Grant | None:
    """Whose key has this hash; None when it is unknown or revoked."""
    row = await connection.fetchrow(sql("find_key"), hashed)
    return None if row is None else Grant(**dict(row))


async def limit(
    connection: DatabaseConnection,
    tenant_id: str,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    max_concurrency: int | None = None,
) -> None:
    """Set the limits of a tenant, making it if need be; None is the default.

    Raises:
        BadRequest: the tenant's name can't be one, or a limit is below 1.
    """
    _check_tenant(tenant_id)
    limits = (requests_per_minute, tokens_per_minute, max_concurrency)
    if any(value is not None and not 1 <= value < 2**31 for value in limits):
        raise BadRequest("a tenant's limits are numbers from 1 to 2147483647, or none")
    await connection.execute(sql("limit_tenant"), tenant_id, *limits)


def _check_tenant(tenant_id: str) -> None:
    if not _TENANT.fullmatch(tenant_id):
        raise BadRequest(
            f"{tenant_id!r} can't be a tenant: use up to 64 of a-z, 0-9, - and _, beginning and "
            "ending with a letter or digit",
            param="tenant",
        )


async def watch(
    dsn: str,
    *,
    key: Callable[[bytes], None],
    tenant: Callable[[str], None],
    everything: Callable[[], None],
    again_s: float = 0.5,
    alive_s: float = 5.0,
) -> None:
    """Tell a cache what to forget, until cancelled: `key(hash)` when a key changed or ended,
    `tenant(id)` when limits changed, and `everything()` whenever word may have been missed,
    that is, after each time a connection was made. Connects again by itself, every `again_s`;
    a connection that is silently dead is noticed within `alive_s` and a timeout.
    """
    loop = asyncio.get_running_loop()

    async def listen(_: Attempt) -> None:
        connection: asyncpg.Connection | None = None
        try:
            connection = await connect(dsn)
            ended: asyncio.Future[None] = loop.create_future()
            connection.add_termination_listener(
                lambda _, ended=ended: ended.done() or ended.set_result(None)
            )
            await connection.add_listener("tether_keys", lambda *a: key(bytes.fromhex(a[3])))
            await connection.add_listener("tether_tenants", lambda *a: tenant(a[3]))
            everything()
            while not ended.done():
                await asyncio.wait((ended,), timeout=alive_s)
                if not ended.done():
                    await connection.execute("SELECT 1", timeout=alive_s)
        except (*LOST, TetherError, asyncpg.PostgresError) as error:
            # what is missed meanwhile is made up for by everything()
            raise Unavailable("PostgreSQL is away") from error
        finally:
            if connection is not None:
                connection.terminate()
        raise Unavailable("the connection ended")

    options = RetryOptions(attempts=0, initial_s=again_s, max_s=again_s, heeds=False)
    await run(Stack(Retry(options, random.random, budget=None)), listen)
