"""A listener: tells who caches what PostgreSQL holds that it has changed (LISTEN)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg

from actors.stores.database import LOST, connect
from supervision.errors import TetherError, Unavailable
from supervision.policies import Retry, RetryOptions, Stack
from supervision.policies.async_driver import Attempt, run


async def listen(
    dsn: str,
    channel: str,
    read: Callable[[asyncpg.Connection], Awaitable[None]],
    *,
    again_s: float = 0.5,
    alive_s: float = 5.0,
) -> None:
    """Calls `read` with a connection when something was told on `channel`, however much of it, and
    whenever word may have been missed, that is, after each time a connection was made; until
    cancelled. Connects again by itself, every `again_s`; a connection that is silently dead is
    noticed within `alive_s` and a timeout."""

    async def attend(_: Attempt) -> None:
        connection: asyncpg.Connection | None = None
        try:
            connection = await connect(dsn)
            told = asyncio.Event()
            connection.add_termination_listener(lambda _: told.set())
            await connection.add_listener(channel, lambda *_: told.set())
            told.set()
            while not connection.is_closed():
                try:
                    async with asyncio.timeout(alive_s):
                        await told.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1", timeout=alive_s)
                    continue
                told.clear()
                if not connection.is_closed():
                    await read(connection)
        except (*LOST, TetherError, asyncpg.PostgresError) as error:
            raise Unavailable("PostgreSQL is away") from error  # `read` comes after it is back
        finally:
            if connection is not None:
                connection.terminate()
        raise Unavailable("the connection ended")

    options = RetryOptions(attempts=0, initial_s=again_s, max_s=again_s, heeds=False)
    await run(Stack(Retry(options, random.random, budget=None)), attend)
