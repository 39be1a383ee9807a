"""SIGTERM: running answers finish, new requests are turned away, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.support.node_process import (
    Launcher,
    Node,
    assert_gone,
    of_home,
    tether,
    until,
    write_config,
)
from tests.support.sse import chat, echoed
from tests.support.waiting import PATIENCE_S

PROMPT = "delay=20 going down slowly"
#: Tokens of the answers; more where they were over before anybody was turned away.
LENGTHS = (120, 400, 1000)
SHORT = {"model": "echo", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}


async def test_streams_finish_and_new_requests_are_turned_away(
    launch: Launcher, tmp_path: Path
) -> None:
    write_config(tmp_path)
    for tokens in LENGTHS:
        if await turns_away(launch(tmp_path), tokens):
            return
    pytest.fail("the answers were over before anybody was turned away")


async def turns_away(node: Node, tokens: int) -> bool:
    """Stops the node while it answers. Was anybody turned away before all was answered?"""
    refused = False
    async with client_of(node) as client, client_of(node) as latecomer:
        # Its connection is open before the drain begins: later, nobody listens for new ones.
        assert (await latecomer.post("/v1/chat/completions", json=SHORT)).status_code == 200
        before = await node.sql("select count(*) from jobs")
        streams = [
            asyncio.create_task(chat(client, f"{PROMPT} {n}", max_tokens=tokens)) for n in range(8)
        ]

        async def all_run() -> bool:
            return bool(await node.sql("select count(*) from jobs") == before + len(streams))

        await until(all_run, "all streams are reserved")
        node.process.send_signal(signal.SIGTERM)
        while not refused and not any(stream.done() for stream in streams):
            try:
                response = await latecomer.post("/v1/chat/completions", json=SHORT)
            except httpx2.TransportError:
                break  # it has been told, and is gone
            if response.status_code == 200:
                continue
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "draining"
            assert "retry-after" in response.headers
            refused = not any(stream.done() for stream in streams)
        answers = await asyncio.gather(*streams)
    for n, answer in enumerate(answers):
        assert answer.complete, answer
        assert answer.text.split() == echoed(f"{PROMPT} {n}", tokens).split()
    assert await asyncio.to_thread(node.process.wait, 2 * PATIENCE_S) == 0
    assert_gone(node.folder)
    return refused


def client_of(node: Node) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers=node.headers, timeout=2 * PATIENCE_S)


def test_down_stops_it_and_everything_is_kept(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    key = node.key
    done = tether("down", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert node.process.wait(PATIENCE_S) == 0
    assert_gone(tmp_path)
    again = launch(tmp_path)
    response = httpx2.get(f"{again.url}/v1/models", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 200, "a key of before the restart is not known any more"
    assert again.stop() == 0


def test_a_killed_launcher_takes_everything_along(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    home = tmp_path / ".tether"
    assert len(list(of_home(home))) > 5
    node.process.kill()
    node.process.wait()
    until = time.monotonic() + PATIENCE_S
    while left := list(of_home(home)):
        assert time.monotonic() < until, f"left behind by a killed node: {left}"
        time.sleep(0.05)
    again = launch(tmp_path)
    assert again.stop() == 0


def test_what_a_killed_node_left_does_not_keep_the_port(launch: Launcher, tmp_path: Path) -> None:
    """A door that still drains, or hangs, when its node is started again."""
    write_config(tmp_path)
    node = launch(tmp_path)
    os.kill(int(node.tree()["doors/0"]["pid"]), signal.SIGSTOP)
    node.process.kill()
    node.process.wait()
    again = launch(tmp_path)
    assert httpx2.get(f"{again.url}/readyz").status_code == 200
    assert again.stop() == 0


def test_ctrl_c_before_it_is_up(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch.start(tmp_path)
    while not list(of_home(tmp_path / ".tether")):
        assert node.process.poll() is None, node.tail()
        time.sleep(0.01)
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(2 * PATIENCE_S) == 0
    assert_gone(tmp_path)


@pytest.mark.parametrize("victim", ["root", "Admin"])
def test_without_root_or_admin_the_node_ends(launch: Launcher, tmp_path: Path, victim: str) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    root = int(node.tree()[""]["pid"])
    # Thespian's Admin starts the root: it is the root's parent, the fourth word of proc(5)'s stat.
    admin = int(Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill({"root": root, "Admin": admin}[victim], signal.SIGKILL)
    assert node.process.wait(2 * PATIENCE_S) == 1
    said = [line for line in node.log.read_text().splitlines() if line.startswith("tether: ")]
    assert len(said) == 1
    assert "start the node again" in said[0]
    assert_gone(tmp_path)


def test_a_node_that_does_not_stop_is_killed(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    os.kill(node.process.pid, signal.SIGSTOP)
    done = tether("down", "--timeout", "1", cwd=tmp_path)
    assert done.returncode == 0
    assert "was killed" in done.stderr
    node.process.wait(PATIENCE_S)
    assert list(of_home(tmp_path / ".tether")) == []
    again = launch(tmp_path)
    assert again.stop() == 0
