"""A node whose front door speaks TLS: real clients, kills, and certificates that come and go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.conftest import Launcher
from tests.support.door_certificates import DoorAuthority, serial_of
from tests.support.node_process import Node, tether, until, write_config
from tests.support.waiting import PATIENCE_S

DOOR = "doors/0"
TLS = '[http.tls]\ncertificate = "door.crt"\nkey = "door.key"\n'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> DoorAuthority:
    return DoorAuthority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def node(launch: Launcher, authority: DoorAuthority) -> Node:
    authority.renew()
    write_config(authority.folder, more=TLS)
    return launch(authority.folder)


@pytest.fixture
async def http(node: Node, authority: DoorAuthority) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S, verify=authority.client()
    ) as client:
        yield client


def chat(text: str, tokens: int, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"model": "echo", "messages": messages, "max_tokens": tokens, **more}


async def served_serial(node: Node, authority: DoorAuthority) -> int:
    """Of the certificate that a new connection is shown; 0 where there is none."""
    port = httpx2.URL(node.url).port
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
    except (OSError, ssl.SSLError):
        return 0
    try:
        return serial_of(writer.get_extra_info("ssl_object"))
    finally:
        writer.close()


async def test_it_says_so_and_answers(
    node: Node, authority: DoorAuthority, http: httpx2.AsyncClient
) -> None:
    assert node.url.startswith("https://")
    assert f"ready at {node.url}" in node.log.read_text()
    async with openai.AsyncOpenAI(
        base_url=f"{node.url}/v1", api_key=node.key, max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=authority.client()),
    ) as client:  # fmt: skip
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "a b"}], max_tokens=5, stream=True
        )
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert text.split() == ["a", "b", "a", "b", "a"]
    shown = tether("check", cwd=node.folder)
    assert shown.returncode == 0 and "https://127.0.0.1:" in shown.stdout


async def test_a_new_certificate_under_a_running_stream(
    node: Node, authority: DoorAuthority, http: httpx2.AsyncClient
) -> None:
    before = await served_serial(node, authority)
    async with http.stream(
        "POST", "/v1/chat/completions", json=chat("x delay=20", 200, stream=True)
    ) as answer:
        assert answer.status_code == 200
        fresh = authority.renew()
        seen: list[int] = []

        async def shown() -> bool:
            seen.append(await served_serial(node, authority))
            return seen[-1] == fresh

        await until(shown, "the new certificate")
        assert set(seen) <= {before, fresh}, "a connection was refused meanwhile"
        body = b"".join([part async for part in answer.aiter_bytes()])
    said = [
        json.loads(line[6:]) for line in body.decode().split("\n\n") if line.startswith("data: {")
    ]
    assert sum(bool(e["choices"] and e["choices"][0]["delta"].get("content")) for e in said)
    assert body.endswith(b"data: [DONE]\n\n")


async def test_its_door_is_killed(node: Node, http: httpx2.AsyncClient) -> None:
    """Whoever connects meanwhile waits in the backlog, and then for the handshake."""
    pid = node.tree()[DOOR]["pid"]
    os.kill(pid, signal.SIGKILL)
    answer = await http.post("/v1/chat/completions", json=chat("a b", 2))
    assert answer.status_code == 200, answer.text
    assert node.tree()[DOOR]["pid"] != pid


async def test_its_door_is_killed_while_a_broken_pair_lies_there(
    node: Node, authority: DoorAuthority, http: httpx2.AsyncClient
) -> None:
    """The old certificate goes on, from the launcher's memory; a good new one is taken over."""
    before = await served_serial(node, authority)
    authority.put(authority.pair()[0], authority.pair()[1])

    async def told() -> bool:
        return "\"the door's new certificate is kept out" in node.log.read_text()

    await until(told, "the log says so")
    pid = node.tree()[DOOR]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert (await http.post("/v1/chat/completions", json=chat("a b", 2))).status_code == 200
    assert node.tree()[DOOR]["pid"] != pid
    assert await served_serial(node, authority) == before
    fresh = authority.renew()

    async def shown() -> bool:
        return await served_serial(node, authority) == fresh

    await until(shown, "the new certificate")
    families = text_string_to_metric_families(httpx2.get(node.metrics).text)
    shown_ = {s.name: s for family in families for s in family.samples}
    assert shown_["tether_http_certificate_failures_total"].value > 0
    ends = shown_["tether_http_certificate_ends_seconds"]
    assert ends.labels == {"certificate": str(authority.certificate)}
    assert abs(ends.value - time.time() - 20 * 86_400) < 600


def test_what_cant_be_used_is_one_sentence(launch: Launcher, tmp_path: Path) -> None:
    authority = DoorAuthority(tmp_path)
    write_config(tmp_path, more=TLS)
    authority.put(authority.pair()[0], authority.pair()[1])
    refused = tether("up", cwd=tmp_path)
    assert refused.returncode == 1
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("tether: ")]
    assert "the key is not that of the certificate" in line
    authority.renew()
    authority.key.chmod(0o644)
    refused = tether("up", cwd=tmp_path)
    assert refused.returncode == 1 and f"chmod 600 {authority.key}" in refused.stderr
    assert "http.tls" in refused.stderr
