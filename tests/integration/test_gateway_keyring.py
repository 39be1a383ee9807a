"""The gateway's keys on a real server: who was let in before doesn't wait behind strangers."""

from __future__ import annotations

import asyncio
import secrets

import asyncpg

from actors.gateway.admission import UNLIMITED
from actors.gateway.keyring import MAX_QUESTIONS, Keyring
from actors.stores import keys, tenant_limits
from supervision.errors import Overloaded, TetherError, Unauthenticated
from tests.support.waiting import PATIENCE_S, until


def made_up() -> str:
    return f"tether-acme-{secrets.token_urlsafe(32)}"


async def ends(question: asyncio.Task[object]) -> type[BaseException] | None:
    try:
        await question
    except TetherError as error:
        return type(error)
    return None


async def test_made_up_keys_crowd_out_no_good_one(dsn: str, connection: asyncpg.Connection) -> None:
    loop = asyncio.get_running_loop()
    made = await keys.create(connection, "acme")
    ring = Keyring(dsn, UNLIMITED, bound=10, present_s=600.0, absent_s=600.0)
    await ring.open()
    try:
        await ring.caller(made.text, loop)
        for _ in range(50):
            question = asyncio.ensure_future(ring.caller(made_up(), loop))
            assert await ends(question) is Unauthenticated
        assert ring.known(made.text, loop.time()) is not None
    finally:
        await ring.close()


async def test_a_known_tenants_look_up_waits_behind_no_strangers(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """The key has to be looked up again, and a thousand strangers came first."""
    loop = asyncio.get_running_loop()
    made = await keys.create(connection, "acme")
    ring = Keyring(dsn, UNLIMITED, bound=10, present_s=0.001, absent_s=600.0)
    await ring.open()
    try:
        caller = await ring.caller(made.text, loop)
        strangers = [
            loop.create_task(ring.caller(made_up(), loop)) for _ in range(MAX_QUESTIONS + 100)
        ]
        await until(lambda: ring.questions == MAX_QUESTIONS)
        async with asyncio.timeout(PATIENCE_S):
            assert (await ring.caller(made.text, loop)).name == caller.name
        assert ring.questions > MAX_QUESTIONS / 2
        ended = [await ends(stranger) for stranger in strangers]
        assert ended.count(Unauthenticated) == MAX_QUESTIONS
        assert ended.count(Overloaded) == 100
        assert ring.questions == 0
    finally:
        await ring.close()


async def test_a_change_of_one_tenant_forgets_its_keys_alone(
    dsn: str, connection: asyncpg.Connection
) -> None:
    loop = asyncio.get_running_loop()
    ours, others = await keys.create(connection, "acme"), await keys.create(connection, "other")
    ring = Keyring(dsn, UNLIMITED, bound=10, present_s=600.0, absent_s=600.0)
    await ring.open()
    watching = loop.create_task(ring.watch())
    try:

        async def heard() -> bool:
            """The watcher listens: what it forgets is what it is told."""
            await ring.caller(ours.text, loop)
            await tenant_limits.changed(connection, "acme", tokens_per_minute=5)
            await asyncio.sleep(0.05)
            return ring.known(ours.text, loop.time()) is None

        async with asyncio.timeout(PATIENCE_S):
            while not await heard():
                pass
        await ring.caller(others.text, loop)
        await ring.caller(ours.text, loop)
        await tenant_limits.changed(connection, "acme", tokens_per_minute=7)
        await until(lambda: ring.known(ours.text, loop.time()) is None)
        assert ring.known(others.text, loop.time()) is not None
        assert (await ring.caller(ours.text, loop)).limits.tokens_per_minute == 7
    finally:
        watching.cancel()
        await ring.close()
