"""SIGTERM: running answers finish, new requests are turned away, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx2
import pytest
from node_process import Launcher, assert_gone, of_home, tether, until, write_config
from sse import chat, echoed

PROMPT = "delay=20 going down slowly"
TOKENS = 120


async def test_streams_finish_and_new_requests_are_turned_away(
    launch: Launcher, tmp_path: Path
) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    async with httpx2.AsyncClient(base_url=node.url, headers=node.headers, timeout=60) as client:
        # A connection that is open before the drain begins: a new one is refused by the kernel.
        first = await client.post(
            "/v1/chat/completions",
            json={"model": "echo", "max_tokens": 1,
                  "messages": [{"role": "user", "content": "x"}]},
        )  # fmt: skip
        assert first.status_code == 200
        streams = [
            asyncio.create_task(chat(client, f"{PROMPT} {n}", max_tokens=TOKENS)) for n in range(8)
        ]

        async def all_run() -> bool:
            return bool(await node.sql("select count(*) from leases") == len(streams))

        await until(all_run, 10, "all streams have a lease")
        node.process.send_signal(signal.SIGTERM)
        turned_away = await _turned_away(client)
        answers = await asyncio.gather(*streams)
    assert turned_away
    for n, answer in enumerate(answers):
        assert answer.complete, answer
        assert answer.text.split() == echoed(f"{PROMPT} {n}", TOKENS).split()
    assert await asyncio.to_thread(node.process.wait, 60) == 0
    assert_gone(tmp_path)


async def _turned_away(client: httpx2.AsyncClient) -> bool:
    """Is a new request refused (503, or no connection) soon after SIGTERM?"""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            response = await client.post(
                "/v1/chat/completions",
                json={"model": "echo", "max_tokens": 1,
                      "messages": [{"role": "user", "content": "x"}]},
            )  # fmt: skip
        except httpx2.TransportError:
            return True
        if response.status_code == 503:
            assert "retry-after" in response.headers
            return True
        assert response.status_code == 200
        await asyncio.sleep(0.02)
    return False


def test_down_stops_it_and_everything_is_kept(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    key = node.key
    done = tether("down", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert node.process.wait(5) == 0
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
    until = time.monotonic() + 30
    while left := list(of_home(home)):
        assert time.monotonic() < until, f"left behind by a killed node: {left}"
        time.sleep(0.05)
    again = launch(tmp_path)
    assert again.stop() == 0


def test_ctrl_c_before_it_is_up(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch.start(tmp_path)
    while not list(of_home(tmp_path / ".tether")):
        assert node.process.poll() is None, node.tail()
        time.sleep(0.01)
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(60) == 0
    assert_gone(tmp_path)


@pytest.mark.parametrize("victim", ["root", "Admin"])
def test_without_root_or_admin_the_node_ends(launch: Launcher, tmp_path: Path, victim: str) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    root = int(node.tree()[""]["pid"])
    # Thespian's Admin starts the root: it is the root's parent, the fourth word of proc(5)'s stat.
    admin = int(Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill({"root": root, "Admin": admin}[victim], signal.SIGKILL)
    assert node.process.wait(60) == 1
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
    node.process.wait(10)
    assert list(of_home(tmp_path / ".tether")) == []
    again = launch(tmp_path)
    assert again.stop() == 0
