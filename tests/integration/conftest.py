"""A PostgreSQL of the test run's own, and a fresh database for each test that wants one."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from actors.stores.database import connect, migrate
from actors.stores.embedded import Embedded
from tests.support.databases import TEMPLATE, in_database


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets, which tmp_path may not be."""
    path = Path(tempfile.mkdtemp(prefix="tether-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def server() -> Iterator[Embedded]:
    """A running server with a migrated database to copy."""
    path = Path(tempfile.mkdtemp(prefix="tether-"))
    embedded = Embedded(path / "pg", path / "s")

    async def begin() -> None:
        await embedded.start()
        connection = await connect(embedded.dsn)
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await connection.close()
        connection = await connect(in_database(embedded.dsn, TEMPLATE))
        await migrate(connection)
        await connection.close()

    try:
        asyncio.run(begin())
        yield embedded
    finally:
        asyncio.run(embedded.stop())
        shutil.rmtree(path)


@pytest_asyncio.fixture
async def empty_dsn(server: Embedded) -> AsyncIterator[str]:
    """The DSN of a database without any schema."""
    async for dsn in _database(server, "template1"):
        yield dsn


@pytest_asyncio.fixture
async def dsn(server: Embedded) -> AsyncIterator[str]:
    """The DSN of a migrated database, empty."""
    async for dsn in _database(server, TEMPLATE):
        yield dsn


@pytest_asyncio.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to that database."""
    made = await connect(dsn)
    yield made
    await made.close()


async def _database(server: Embedded, template: str) -> AsyncIterator[str]:
    name = f"t_{secrets.token_hex(6)}"
    root = await connect(server.dsn)
    try:
        await root.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield in_database(server.dsn, name)
        await root.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await root.close()
