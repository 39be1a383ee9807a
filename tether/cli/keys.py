"""`tether keys`: on the database of the running node, or the one of the DSN."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from actors.stores import keys
from actors.stores.database import Database
from actors.stores.database_roles import DatabaseRole, with_user
from tether.admin.grid import Cell, Grid
from tether.cli.failure import CommandFailed
from tether.config import Config
from tether.node.home import running

_T = TypeVar("_T")


def create(config: Config, tenant: str, name: str, *, operator: bool) -> int:
    """Make a key for `tenant` and print its text, alone on standard output."""

    async def run(database: Database) -> keys.NewKey:
        return await keys.create(database, tenant, name, operator=operator)

    made = asyncio.run(_with_database(config, run))
    print(made.text)
    return 0


def list_(config: Config, tenant: str | None, *, as_json: bool) -> int:
    """Print all keys, or those of `tenant`."""

    async def run(database: Database) -> list[keys.ApiKey]:
        return await keys.listed(database, tenant)

    found = asyncio.run(_with_database(config, run))
    if as_json:
        for key in found:
            print(msgspec.json.encode(key).decode())
        return 0
    rows: list[tuple[Cell, ...]] = [
        ("id", "tenant", "key", "name", "made", "revoked", "operator"),
        *(
            (
                key.id,
                key.tenant_id,
                f"{key.prefix}…",
                key.name,
                f"{key.created_at:%Y-%m-%d %H:%M}",
                f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "",
                "yes" if key.operator else "",
            )
            for key in found
        ),
    ]
    Grid(rows, headed=True, whole=(0, 1, 2)).show()
    return 0


def revoke(config: Config, key: str) -> int:
    """End a key.

    Raises:
        CommandFailed: there is none of that id, prefix or text, or it has ended.
    """

    async def run(database: Database) -> list[str]:
        return await keys.revoke(database, key)

    ended = asyncio.run(_with_database(config, run))
    if not ended:
        raise CommandFailed("no living key is called that; `tether keys list` shows them")
    print(f"revoked {', '.join(ended)}")
    return 0


def dsn(config: Config) -> str:
    """Where the database is, for an operator.

    Raises:
        CommandFailed: it is embedded, and the node doesn't run; or the node has none.
    """
    if config.stores.postgres:
        dsn = config.stores.postgres
        return with_user(dsn, DatabaseRole.OPERATOR) if config.stores.roles else dsn
    if not config.has_role("control"):
        raise CommandFailed(
            f"node {config.node.id} has not the role control, and no database; run this at a "
            "control node"
        )
    state = running(config.data_dir)
    if state is None or not state.dsn:
        raise CommandFailed(
            f"the embedded database in {config.data_dir} runs with its node only; start it with "
            "`tether up`, or set stores.postgres to a server of your own"
        )
    return state.dsn


async def _with_database(config: Config, run: Callable[[Database], Awaitable[_T]]) -> _T:
    async with Database(dsn(config), size=1) as database:
        return await run(database)
