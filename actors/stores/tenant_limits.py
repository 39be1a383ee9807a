"""The limits of tenants in PostgreSQL: shown and changed. Gateways hear of each change (NOTIFY)."""

from __future__ import annotations

from typing import Final

import msgspec

from actors.stores.keys import DatabaseConnection
from actors.stores.queries import sql
from supervision.errors import BadRequest

MOST: Final = 2**31 - 1


class TenantLimitRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant may use a minute, and at once; None is the configuration's default."""

    tenant_id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None


async def listed(connection: DatabaseConnection) -> list[TenantLimitRow]:
    """Those of all tenants, by name."""
    rows = await connection.fetch(sql("tenant_limits"), None)
    return [TenantLimitRow(**dict(row)) for row in rows]


async def shown(connection: DatabaseConnection, tenant_id: str) -> TenantLimitRow:
    """Those of one tenant.

    Raises:
        BadRequest: there is no such tenant.
    """
    row = await connection.fetchrow(sql("tenant_limits"), tenant_id)
    if row is None:
        raise _unknown(tenant_id)
    return TenantLimitRow(**dict(row))


async def changed(
    connection: DatabaseConnection,
    tenant_id: str,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    max_concurrency: int | None = None,
) -> TenantLimitRow:
    """Set those that are given, and leave the others.

    Raises:
        BadRequest: there is no such tenant, a limit is out of its range, or none is given.
    """
    given = (requests_per_minute, tokens_per_minute, max_concurrency)
    if not any(value is not None for value in given):
        raise BadRequest("no limit is given; name requests, tokens or concurrency")
    if any(value is not None and not 1 <= value <= MOST for value in given):
        raise BadRequest(f"a tenant's limits are numbers from 1 to {MOST}")
    return await _change(connection, tenant_id, given, all_=False)


async def cleared(connection: DatabaseConnection, tenant_id: str) -> TenantLimitRow:
    """Back to the configuration's defaults.

    Raises:
        BadRequest: there is no such tenant.
    """
    return await _change(connection, tenant_id, (None, None, None), all_=True)


async def _change(
    connection: DatabaseConnection,
    tenant_id: str,
    limits: tuple[int | None, int | None, int | None],
    *,
    all_: bool,
) -> TenantLimitRow:
    row = await connection.fetchrow(sql("change_limits"), tenant_id, *limits, all_)
    if row is None:
        raise _unknown(tenant_id)
    return TenantLimitRow(**dict(row))


def _unknown(tenant_id: str) -> BadRequest:
    return BadRequest(
        f"there is no tenant {tenant_id!r}; `tether limits list` shows all, and `tether keys "
        "create` makes one",
        param="tenant",
    )
