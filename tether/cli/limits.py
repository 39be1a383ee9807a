"""`tether limits`: what tenants may use, in the database of the running node or of the DSN. Each
change stands in the audit log of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from actors.stores import tenant_limits
from actors.stores.database import Database
from actors.stores.tenant_limits import TenantLimitRow
from supervision.errors import TetherError
from supervision.telemetry.audit import Audit, Unwritable, Who
from tether.admin.grid import Cell, Grid
from tether.cli.failure import CommandFailed
from tether.cli.keys import dsn
from tether.config import Config

_T = TypeVar("_T")


def list_(config: Config, *, as_json: bool) -> int:
    """Print the limits of all tenants."""
    _print(config, asyncio.run(_stored(config, tenant_limits.listed)), as_json=as_json)
    return 0


def show(config: Config, tenant: str, *, as_json: bool) -> int:
    """Print the limits of `tenant`."""

    async def run(database: Database) -> TenantLimitRow:
        return await tenant_limits.shown(database, tenant)

    _print(config, [asyncio.run(_stored(config, run))], as_json=as_json)
    return 0


def set_(
    config: Config,
    tenant: str,
    *,
    requests: int | None,
    tokens: int | None,
    concurrency: int | None,
) -> int:
    """Set some limits of `tenant`, and print all."""

    async def run(database: Database) -> TenantLimitRow:
        return await tenant_limits.changed(
            database,
            tenant,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
            max_concurrency=concurrency,
        )

    given = (("requests", requests), ("tokens", tokens), ("concurrency", concurrency))
    words = [f"{name}={value}" for name, value in given if value is not None]
    _print(config, [_audited(config, "limits set", [tenant, *words], run)])
    return 0


def clear(config: Config, tenant: str) -> int:
    """Give `tenant` the configuration's limits again, and print them."""

    async def run(database: Database) -> TenantLimitRow:
        return await tenant_limits.cleared(database, tenant)

    _print(config, [_audited(config, "limits clear", [tenant], run)])
    return 0


def _audited(
    config: Config,
    command: str,
    words: Sequence[str],
    run: Callable[[Database], Awaitable[TenantLimitRow]],
) -> TenantLimitRow:
    """
    Raises:
        CommandFailed: it can't be written down, so it isn't done.
    """
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        outcome = Audit(config.data_dir, Who.here(), config.node.id).begins(command, words)
    except Unwritable as error:
        raise CommandFailed(str(error)) from error
    try:
        found = asyncio.run(_stored(config, run))
    except (TetherError, CommandFailed) as error:
        outcome(str(error))
        raise
    outcome("done")
    return found


async def _stored(config: Config, run: Callable[[Database], Awaitable[_T]]) -> _T:
    async with Database(dsn(config), size=1) as database:
        return await run(database)


def _print(config: Config, rows: Sequence[TenantLimitRow], *, as_json: bool = False) -> None:
    if as_json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return
    default = config.limits
    lines: list[tuple[Cell, ...]] = [
        ("tenant", "requests a minute", "tokens a minute", "at once"),
        *(
            (
                row.tenant_id,
                _shown(row.requests_per_minute, default.requests_per_minute),
                _shown(row.tokens_per_minute, default.tokens_per_minute),
                _shown(row.max_concurrency, default.max_concurrency),
            )
            for row in rows
        ),
    ]
    Grid(lines, headed=True, whole=(0,)).show()


def _shown(own: int | None, default: int) -> str:
    if own is not None:
        return str(own)
    return f"{default} (default)" if default else "no limit (default)"
