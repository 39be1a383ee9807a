"""kill -9 of a door, and then of the root: what was computed and billed meanwhile is said again.

Until answers were kept in the store, who sent the key again after both had died was told that the
answer is gone, and had paid for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx2
import pytest
from owner_kills_prove import root_pid

from tests.support.keyed import CHAT, Said
from tests.support.node_process import ECHO, Launcher, Node, of_home, until, write_config
from tests.support.sse import echoed
from tests.support.waiting import PATIENCE_S

EACH = 8
TOKENS = 75


def connected(node: Node) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers=node.headers, timeout=PATIENCE_S)


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "computing"])
async def test_an_answer_outlives_its_door_and_its_root(
    launch: Launcher, tmp_path: Path, settled: bool
) -> None:
    """The door is killed in the middle of answers; the root when they are settled, or while their
    orphaned workers still compute."""
    write_config(tmp_path, models=ECHO + "count = 2\n")
    node = launch(tmp_path)
    bodies = {
        f"key {n} {stream}": CHAT.body(f"delay=20 said {n}", TOKENS)
        for n in range(EACH)
        for stream in (False, True)
    }
    async with connected(node) as client:
        asking = [
            asyncio.create_task(CHAT.ask(client, key, body, stream=key.endswith("True")))
            for key, body in bodies.items()
        ]

        async def all_run() -> bool:
            return bool(await node.sql("SELECT count(*) FROM leases") == len(bodies))

        await until(all_run, "all of them run")
        door = (await asyncio.to_thread(node.tree))["doors/0"]["pid"]
        root = root_pid(node.state["root"])
        os.kill(door, signal.SIGKILL)
        if settled:

            async def all_settled() -> bool:
                query = "SELECT count(*) FROM jobs WHERE outcome = 'completed'"
                return bool(await node.sql(query) == len(bodies))

            await until(all_settled, "all of them are settled")
        os.kill(root, signal.SIGKILL)
        await asyncio.gather(*asking, return_exceptions=True)

    async def gone() -> bool:
        node.process.poll()
        return not any(of_home(tmp_path / ".tether"))

    await until(gone, "nothing of the node is left running")
    again = launch.start(tmp_path)
    again.key = node.key
    await asyncio.to_thread(again.wait_ready)
    completed = await again.sql("SELECT count(*) FROM jobs WHERE outcome = 'completed'")
    assert completed == len(bodies) if settled else completed <= len(bodies)
    async with connected(again) as client:
        told: list[Said] = await asyncio.gather(
            *(CHAT.ask(client, key, body, stream=key.endswith("True"))
              for key, body in bodies.items())
        )  # fmt: skip
    for (key, _), said in zip(bodies.items(), told, strict=True):
        assert (said.status, said.broken) == (200, False), said
        assert said.choices[0].split() == echoed(f"said {key.split()[1]}", TOKENS).split()
    assert sum(said.replayed for said in told) == completed

    async def all_billed() -> bool:
        return bool(await again.sql("SELECT count(*) FROM jobs WHERE state <> 'settled'") == 0)

    await until(all_billed, "all of them are closed")
    query = "SELECT count(*) FROM jobs WHERE billed_output <> $1"
    assert await again.sql(query, TOKENS) == 0, "each is billed in full, once"
    assert again.stop() == 0
