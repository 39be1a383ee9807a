"""Limits of a tenant at a whole node: what clients are told of them, what is charged, who sets
them, and what happens while the store that adds them up is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.node_process import Launcher, Node, tether, until, write_config
from tests.support.waiting import PATIENCE_S

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("limits")
    write_config(folder)
    return launch(folder)


def key_of(node: Node, tenant: str, *limits: str) -> dict[str, str]:
    """The headers of a new tenant with these limits."""
    made = tether("keys", "create", tenant, cwd=node.folder)
    assert made.returncode == 0, made.stderr
    if limits:
        done = tether("limits", "set", tenant, *limits, cwd=node.folder)
        assert done.returncode == 0, done.stderr
    return {"authorization": f"Bearer {made.stdout.strip()}"}


def client(node: Node, headers: dict[str, str]) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=200)
    return httpx2.AsyncClient(base_url=node.url, headers=headers, timeout=PATIENCE_S, limits=limits)


def chat(text: str, *, stream: bool = False, max_tokens: int = 8) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "echo", "messages": messages, "stream": stream, "max_tokens": max_tokens}


def left(answer: httpx2.Response, what: str) -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{what}"])


async def test_every_answer_says_what_is_left(node: Node) -> None:
    headers = key_of(node, "org-told", "--requests", "3", "--tokens", "1000")
    async with client(node, headers) as http:
        whole = await http.post(CHAT, json=chat("a b"))
        assert whole.status_code == 200, whole.text
        stream = await http.post(CHAT, json=chat("a b", stream=True))
        assert stream.status_code == 200 and stream.text.endswith("data: [DONE]\n\n")
        third = await http.post("/v1/completions", json={"model": "echo", "prompt": "a b"})
        assert third.status_code == 200
        refused = await http.post(CHAT, json=chat("a b"))
        assert refused.status_code == 429, refused.text
        for number, answer in enumerate((whole, stream, third, refused)):
            told = answer.headers
            assert told["x-ratelimit-limit-requests"] == "3"
            assert told["x-ratelimit-limit-tokens"] == "1000"
            assert left(answer, "requests") == max(0, 2 - number)
            assert told["ratelimit-policy"] == '"requests";q=3;w=60, "tokens";q=1000;w=60'
            assert told["ratelimit"].startswith(f'"requests";r={max(0, 2 - number)};t=')
            assert told["x-ratelimit-reset-requests"].endswith("s")
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_join_counts_as_a_request_and_as_one_that_runs(node: Node) -> None:
    """A hundred streams on one idempotency key under concurrency 1, all of one answer."""
    headers = key_of(node, "joiner", "--concurrency", "1")
    headers["idempotency-key"] = "one"
    body = chat("delay=20 a b c", stream=True, max_tokens=100)
    async with client(node, headers) as http:
        answers = await asyncio.gather(*(http.post(CHAT, json=body) for _ in range(100)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + 99 * [429]


async def test_who_comes_back_alone_finds_the_place_of_the_request(node: Node) -> None:
    headers = key_of(node, "returner", "--concurrency", "1")
    headers["idempotency-key"] = "two"
    async with client(node, headers) as http:
        first = await http.post(CHAT, json=chat("a b"))
        again = await http.post(CHAT, json=chat("a b"))
        assert first.status_code == again.status_code == 200
        assert first.json()["choices"] == again.json()["choices"]


async def test_a_whole_answer_that_is_hung_up_is_charged_what_was_computed(node: Node) -> None:
    headers = key_of(node, "hanger", "--tokens", "4000")
    async with client(node, headers) as http:
        before = left(await http.post(CHAT, json=chat("a", max_tokens=1)), "tokens")
        with pytest.raises(httpx2.TimeoutException):
            await http.post(
                CHAT, json=chat("delay=5 a b c", max_tokens=3000), timeout=httpx2.Timeout(1.5)
            )

        async def settled() -> bool:
            now = left(await http.post(CHAT, json=chat("a", max_tokens=1)), "tokens")
            return 20 < before - now < 1500  # not refunded whole, nor left at the estimate

        await until(settled, "the answer was charged")


async def test_what_is_used_beyond_the_estimate_is_charged(node: Node) -> None:
    """The echo engine has four bytes to a token, and the estimate four characters."""
    headers = key_of(node, "dense", "--tokens", "2000")
    text = "\N{GRINNING FACE}" * 1500  # 1,500 tokens, estimated as 375
    async with client(node, headers) as http:
        answers = [await http.post(CHAT, json=chat(text, max_tokens=1)) for _ in range(8)]
    # The first leaves 499, the second 1,000 below zero.
    assert [answer.status_code for answer in answers] == 2 * [200] + 6 * [429]
    assert left(answers[-1], "tokens") == 0


async def test_limits_are_set_and_cleared_while_the_node_runs(node: Node) -> None:
    headers = key_of(node, "changing")
    async with client(node, headers) as http:
        asked = await http.post(CHAT, json=chat("a"))
        assert asked.headers["x-ratelimit-limit-requests"] == "6000"
        done = tether("limits", "set", "changing", "--requests", "50", cwd=node.folder)
        assert done.returncode == 0 and "50" in done.stdout

        async def says(limit: str) -> bool:
            answer = await http.post(CHAT, json=chat("a"))
            return bool(answer.headers["x-ratelimit-limit-requests"] == limit)

        await until(lambda: says("50"), "the gateway heard of it")
        shown = tether("limits", "show", "changing", "--json", cwd=node.folder)
        assert json.loads(shown.stdout) == {
            "tenant_id": "changing", "requests_per_minute": 50, "tokens_per_minute": None,
            "max_concurrency": None,
        }  # fmt: skip
        assert tether("limits", "clear", "changing", cwd=node.folder).returncode == 0
        await until(lambda: says("6000"), "the gateway heard of that, too")
    assert "changing" in tether("limits", "list", cwd=node.folder).stdout
    for words in (("show", "nobody"), ("set", "nobody", "--tokens", "1"), ("clear", "nobody")):
        refused = tether("limits", *words, cwd=node.folder)
        assert refused.returncode == 1 and "no tenant 'nobody'" in refused.stderr
    refused = tether("limits", "set", "changing", "--tokens=-5", cwd=node.folder)
    assert refused.returncode == 1 and "numbers from 1" in refused.stderr
    audit = (node.folder / ".tether" / "audit.jsonl").read_text()
    assert '"limits set"' in audit and '"requests=50"' in audit


def server_of(node: Node) -> int:
    """The pid of its Valkey; 0 if there is none now."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(node.tree()["valkey"]["pid"]).children():
            if child.name() == "valkey-server":
                return child.pid
    return 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_no_request_is_lost_while_the_store_is_away(
    node: Node, number: signal.Signals
) -> None:
    headers = key_of(node, f"away-{number.name.lower()}")
    async with client(node, headers) as http:
        assert (await http.post(CHAT, json=chat("a"))).status_code == 200
        before = server_of(node)
        assert before
        os.kill(before, number)
        for _ in range(30):
            assert (await http.post(CHAT, json=chat("a"))).status_code == 200

        async def back() -> bool:
            return server_of(node) not in (0, before)

        await until(back, "another Valkey runs")
        for _ in range(30):
            assert (await http.post(CHAT, json=chat("a"))).status_code == 200


async def test_the_store_dies_with_a_killed_node(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    found = server_of(node)
    assert found
    server = psutil.Process(found)
    for pid in node.pids():
        if pid != server.pid:
            os.kill(pid, signal.SIGKILL)

    async def gone() -> bool:
        return not server.is_running() or server.status() == psutil.STATUS_ZOMBIE

    await until(gone, "Valkey ended")


async def test_a_node_without_its_store_answers_all_the_same(
    launch: Launcher, tmp_path: Path
) -> None:
    """What lies in the way of its data directory is no folder; once it is gone, Valkey comes."""
    write_config(tmp_path)
    launch(tmp_path)
    assert tether("down", cwd=tmp_path).returncode == 0
    obstacle = tmp_path / ".tether" / "valkey"
    shutil.rmtree(obstacle)
    obstacle.write_text("in the way")
    node = launch(tmp_path)
    async with client(node, key_of(node, "acme")) as http:
        for _ in range(10):
            assert (await http.post(CHAT, json=chat("a"))).status_code == 200
        assert not server_of(node)
        obstacle.unlink()

        async def comes() -> bool:
            return bool(server_of(node))

        await until(comes, "Valkey runs")
        assert (await http.post(CHAT, json=chat("a"))).status_code == 200
