"""The configuration of a command that needs the database alone, and that database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from actors.stores.database import Database
from tether.cli.keys import dsn
from tether.config import Config, load

_T = TypeVar("_T")


def stored(path: Path, node: str) -> Config:
    """With a DSN it doesn't matter which node this is.

    Raises:
        ConfigInvalid: it can't be read.
    """
    config = load(path)
    return config if config.stores.postgres and not node else load(path, node)


def with_database(
    config: Config, run: Callable[[Database], Awaitable[_T]], *, timeout_s: float = 5.0
) -> _T:
    """What `run` returns.

    Raises:
        CommandFailed: the database is embedded, and the node doesn't run.
        TetherError: it can't be reached, or `run` says so.
    """

    async def opened() -> _T:
        async with Database(dsn(config), size=1, timeout_s=timeout_s) as database:
            return await run(database)

    return asyncio.run(opened())
