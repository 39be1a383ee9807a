"""kill -9 of `tether up` and of the root: what was delivered afterwards is billed; nothing stays.

`scripts/prove owners` does it again and again, under more load.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import httpx2
import pytest
from owner_kills_prove import root_pid, unbilled

from tests.support.node_process import ECHO, Launcher, of_home, until, write_config
from tests.support.sse import chat
from tests.support.waiting import PATIENCE_S

EACH = 8
ENDS_S = (1.0, 4.0)  # after the kill; orphaned doors let answers run for 2 s


@pytest.mark.parametrize("victim", ["tether up", "root"])
async def test_what_was_delivered_by_orphans_is_billed(
    launch: Launcher, tmp_path: Path, victim: str
) -> None:
    write_config(tmp_path, models=ECHO + "count = 2\n")
    node = launch(tmp_path)
    root = root_pid(node.state["root"])
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S
    ) as client:
        streams = [
            asyncio.create_task(chat(client, f"delay=20 end {n}", max_tokens=int(seconds * 50)))
            for seconds in ENDS_S
            for n in range(EACH)
        ]

        async def all_run() -> bool:
            return bool(await node.sql("select count(*) from leases") == len(streams))

        await until(all_run, "all streams run")
        os.kill(node.process.pid if victim == "tether up" else root, signal.SIGKILL)
        answers = await asyncio.gather(*streams)
    whole = [answer for answer in answers if answer.complete]
    assert all(answer.complete for answer in answers[:EACH]), "there was time for these"
    assert all(answer.complete or answer.error for answer in answers)

    async def gone() -> bool:
        node.process.poll()
        return not any(of_home(tmp_path / ".tether"))

    await until(gone, "nothing of the node is left running")
    again = launch(tmp_path)
    database = await asyncpg.connect(again.state["dsn"])
    try:
        assert await unbilled(database, whole) == []
    finally:
        await database.close()
    assert again.stop() == 0


async def test_a_start_right_after_the_kill_waits_for_the_orphans(
    launch: Launcher, tmp_path: Path
) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S
    ) as client:
        streams = [
            asyncio.create_task(chat(client, f"delay=20 end {n}", max_tokens=50))
            for n in range(EACH)
        ]

        async def all_run() -> bool:
            return bool(await node.sql("select count(*) from leases") == len(streams))

        await until(all_run, "all streams run")
        node.process.kill()
        again = launch.start(tmp_path)
        answers = await asyncio.gather(*streams)
    assert all(answer.complete for answer in answers)
    await asyncio.to_thread(again.wait_ready)
    assert "killed" not in again.log.read_text().partition("ready")[0]
    database = await asyncpg.connect(again.state["dsn"])
    try:
        assert await unbilled(database, answers) == []
        assert await database.fetchval("select count(*) from leases") == 0
    finally:
        await database.close()
    assert again.stop() == 0
