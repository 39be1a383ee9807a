"""A node that is told to stop, while answers run: it stops in order, and logs no failure."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.support.node_process import Launcher, Node, assert_gone, until, write_config
from tests.support.sse import chat
from tests.support.waiting import PATIENCE_S

STREAMS = 8
STOPS: dict[str, Callable[[Node], None]] = {
    "SIGTERM": lambda node: node.process.send_signal(signal.SIGTERM),
    "Ctrl-C": lambda node: os.killpg(node.process.pid, signal.SIGINT),
}


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
async def test_a_stop_logs_no_failure(launch: Launcher, tmp_path: Path, how: str) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S
    ) as client:
        streams = [
            asyncio.create_task(chat(client, f"delay=20 stop {n}", max_tokens=50))
            for n in range(STREAMS)
        ]

        async def all_run() -> bool:
            return bool(await node.sql("select count(*) from leases") == STREAMS)

        await until(all_run, "all streams run")
        STOPS[how](node)
        assert all(answer.complete for answer in await asyncio.gather(*streams))
    code = await asyncio.to_thread(node.process.wait, 2 * PATIENCE_S)
    assert code == 0, node.tail()
    assert_gone(tmp_path)
    assert failures(node.log.read_text()) == []


def failures(log: str) -> list[str]:
    """The lines that say something went wrong."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [
        str(line)
        for line in lines
        if line["level"] not in ("debug", "info")
        or "failed" in (line.get("reason"), line.get("state"))
        or line.get("error")
    ]
