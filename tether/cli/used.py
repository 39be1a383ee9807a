"""The artifacts in use without a name: by the configuration, and by the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

import asyncpg

from actors.artifacts import digest as digests
from actors.stores import models
from actors.stores.database import Database
from supervision.errors import TetherError
from tether.cli.failure import CommandFailed
from tether.cli.keys import dsn
from tether.config import Config, load

_T = TypeVar("_T")


def configured(config: Config) -> set[str]:
    """The digests that `config` names."""
    sources = (source for m in config.models for source in (m.source, m.adapter))
    return {digests.parse(source) for source in sources if source.startswith(digests.SOURCE)}


async def registered(path: Path, node: str, grace_s: float) -> set[str]:
    """The digests that versions are made of which aren't retired, or were within `grace_s`.

    Raises:
        CommandFailed: the database is embedded, and its node doesn't run.
        TetherError: it doesn't answer.
    """
    async with Database(_dsn(path, node), size=1) as database:
        return _digests(await models.used(database, grace_s))


async def collecting(
    config: Config,
    path: Path,
    node: str,
    grace_s: float,
    work: Callable[[Collection[str]], Awaitable[_T]],
) -> _T:
    """What `work` returns, which is given all digests in use. Until then no artifact is registered:
    it could be gone the moment after.

    Raises:
        CommandFailed: the database can't be asked, or an artifact is just being registered.
    """

    async def alone(connection: asyncpg.Connection) -> _T:
        if not await models.collect_artifacts(connection):
            raise CommandFailed(
                "a version is being registered, or another collection runs; try again"
            )
        found = _digests(await models.used(connection, grace_s))
        return await work(configured(config) | found)

    try:
        database = await Database(_dsn(path, node), size=1).open()
    except (CommandFailed, TetherError) as error:
        raise CommandFailed(
            f"nobody can say what the registry refers to, so nothing is collected: {error}"
        ) from error
    try:
        return await database.transact(alone)
    finally:
        await database.close()


def _dsn(path: Path, node: str) -> str:
    config = load(path)
    return dsn(config if config.stores.postgres and not node else load(path, node))


def _digests(sources: Collection[str]) -> set[str]:
    return {digests.parse(source) for source in sources if source.startswith(digests.SOURCE)}
