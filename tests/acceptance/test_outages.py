"""PostgreSQL is away while answers end: each of them is billed once, also if the whole node is
killed meanwhile. And so is what orphans deliver when no reservation is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import httpx2
import pytest
from owner_kills_prove import unbilled

from actors.stores.embedded import Embedded
from actors.stores.spool_file import MAGIC
from tests.support.node_process import ECHO, Launcher, Node, of_home, until, write_config
from tests.support.sse import Answer, chat
from tests.support.waiting import PATIENCE_S

EACH = 4
SOON_S, LATE_S = (
    1.5,
    5.0,
)  # ends of streams, after PostgreSQL has gone: unknown to be away, and known
STEP_MS = 20
WORKERS = ECHO + "count = 2\n"


@asynccontextmanager
async def foreign_database() -> AsyncIterator[Embedded]:
    """A server that no node has started."""
    with tempfile.TemporaryDirectory(prefix="away-") as name:
        server = Embedded(Path(name) / "pg", Path(name) / "s")
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


def configure(folder: Path, server: Embedded) -> None:
    more = f"[stores]\npostgres = {json.dumps(server.dsn)}\n"
    write_config(folder, models=WORKERS, more=more)


def streams_of(client: httpx2.AsyncClient, ends_s: tuple[float, ...]) -> list[asyncio.Task[Answer]]:
    return [
        asyncio.create_task(
            chat(
                client,
                f"delay={STEP_MS} answer {n} of {seconds}",
                max_tokens=int(seconds * 1000 / STEP_MS),
            )
        )
        for seconds in ends_s
        for n in range(EACH)
    ]


def client_of(node: Node) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers=node.headers, timeout=4 * PATIENCE_S)


async def running(database: asyncpg.Connection, count: int) -> None:
    """Returns when so many answers are under way."""

    async def all_run() -> bool:
        return bool(await database.fetchval("SELECT count(*) FROM leases") == count)

    await until(all_run, "all streams run")


async def billed_once(dsn: str, answers: list[Answer]) -> None:
    """Returns when each of them has its one bill, over what its client was told."""
    database = await asyncpg.connect(dsn)
    try:

        async def all_billed() -> bool:
            return await unbilled(database, answers) == []

        try:
            await until(all_billed, "all answers are billed")
        except AssertionError:
            assert await unbilled(database, answers) == []
        assert await database.fetchval("SELECT count(*) FROM leases") == 0
        assert await database.fetchval("SELECT count(*) FROM ledger") == len(answers)
    finally:
        await database.close()


def spooled(folder: Path) -> int:
    """Bytes of bills on the disk of the node in `folder`."""
    files = (folder / ".tether" / "spool").glob("*.spool")
    return sum(path.stat().st_size - len(MAGIC) for path in files)


@pytest.mark.parametrize("killed", [True, False], ids=["node killed whole", "node lives"])
async def test_what_ends_while_the_database_is_away_is_billed(
    launch: Launcher, tmp_path: Path, killed: bool
) -> None:
    async with foreign_database() as server:
        configure(tmp_path, server)
        node = await asyncio.to_thread(launch, tmp_path)
        async with client_of(node) as client:
            streams = streams_of(client, (SOON_S, LATE_S))
            database = await asyncpg.connect(server.dsn)
            await running(database, len(streams))
            await database.close()
            await server.stop()
            answers = await asyncio.gather(*streams)
            refused = await chat(client, "something new")
            if killed:
                for pid in node.pids():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        assert all(answer.complete for answer in answers)
        assert refused.status == 503
        assert spooled(tmp_path) > 0
        if killed:
            await asyncio.to_thread(node.process.wait)
        await server.start()
        if killed:
            node = launch.start(tmp_path)
            await asyncio.to_thread(node.wait_ready)
        await billed_once(server.dsn, answers)

        async def replayed() -> bool:
            return spooled(tmp_path) == 0

        await until(replayed, "all of the spool is replayed")
        assert await asyncio.to_thread(node.stop) == 0


async def test_what_orphans_deliver_without_a_reservation_is_billed_at_the_next_start(
    launch: Launcher, tmp_path: Path
) -> None:
    write_config(tmp_path, models=WORKERS)
    node = await asyncio.to_thread(launch, tmp_path)
    tree = node.tree()
    # Those above would start reservation again, and end the gateways for that.
    victims = [int(tree[path]["pid"]) for path in ("", "control", "control/reservation")]
    async with client_of(node) as client:
        streams = streams_of(client, (1.0,))
        database = await asyncpg.connect(node.state["dsn"])
        await running(database, len(streams))
        await database.close()
        for pid in (node.process.pid, *victims):
            os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*streams)
    whole = [answer for answer in answers if answer.complete]
    assert whole, f"orphans had time for them: {answers}"

    async def gone() -> bool:
        node.process.poll()
        return not any(of_home(tmp_path / ".tether"))

    await until(gone, "nothing of the node is left running")
    again = launch.start(tmp_path)
    await asyncio.to_thread(again.wait_ready)
    await billed_once(again.owner_dsn, whole)
    assert await asyncio.to_thread(again.stop) == 0
