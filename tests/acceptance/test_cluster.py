"""Two nodes with certificates: the one takes requests, the other answers, and is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
import pytest_asyncio

from actors.stores.embedded import Embedded
from tests.support.cluster_process import Member, certify
from tests.support.node_process import tether, until
from tests.support.ports import free_port

PATIENCE_S = 60.0
CONFIG = """
[node]
data_dir = "data/{{node}}"
identity_dir = "ca/nodes/{{node}}"
[http]
port = {http}
[stores]
postgres = {dsn}
[[nodes]]
id = "n1"
host = "127.0.0.1"
admin_port = {one}
roles = ["door", "control"]
leader = true
[[nodes]]
id = "n2"
host = "127.0.0.1"
admin_port = {two}
roles = ["control", "worker"]
capabilities = {{ gpu_class = "a100", vram_gb = 80 }}
[[models]]
name = "echo"
engine = "echo"
[[models]]
name = "placed"
engine = "echo"
[[workers]]
id = "echo"
models = ["echo"]
slots = 8
[[workers]]
id = "big"
models = ["placed"]
requires = {{ vram_gb = 40 }}
"""


class Two:
    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder, self.dsn = folder, dsn
        self.one, self.two = Member(folder, "n1"), Member(folder, "n2")
        self.key = ""

    async def ask(self, model: str) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=self.one.state["url"], timeout=60) as client:
            return await client.post(
                "/v1/chat/completions",
                headers={"authorization": f"Bearer {self.key}"},
                json={"model": model, "messages": [{"role": "user", "content": "far away"}]},
            )

    async def sql(self, statement: str) -> Any:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    with tempfile.TemporaryDirectory(prefix="tc-") as sockets:
        database = Embedded(tmp_path / "postgres", Path(sockets))
        dsn = await database.start()
        made = Two(tmp_path, dsn)
        try:
            text = CONFIG.format(
                http=free_port(), dsn=json.dumps(dsn), one=free_port(), two=free_port()
            )
            (tmp_path / "cluster.toml").write_text(text)
            certify(tmp_path, ("n1", "n2"))
            made.one.start()
            made.two.start()
            await asyncio.to_thread(made.one.wait_ready)
            await asyncio.to_thread(made.two.wait_ready)
            key = tether("keys", "create", "acme", cwd=tmp_path)
            assert key.returncode == 0, key.stderr
            made.key = key.stdout.strip()
            yield made
        finally:
            for member in (made.one, made.two):
                if member.process is not None and member.process.poll() is None:
                    member.process.terminate()
            for member in (made.one, made.two):
                if member.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        await asyncio.to_thread(member.process.wait, 60)
                    member.kill()
            await database.stop()


@pytest.mark.timeout(600)
async def test_two_nodes_answer_as_one(two: Two) -> None:
    async def answers(model: str) -> bool:
        return (await two.ask(model)).status_code == 200

    async def sees(node: str, state: str) -> bool:
        shown = await asyncio.to_thread(two.one.status)
        return bool(shown[node]["state"] == state)

    # A request at the door of n1 is answered by n2, where alone there are workers.
    await until(lambda: answers("echo"), what="a worker of n2 answers", timeout_s=PATIENCE_S)
    answer = await two.ask("echo")
    assert "far away" in answer.json()["choices"][0]["message"]["content"]
    assert await two.sql("SELECT count(*) FROM jobs WHERE worker_id <> 'echo.n2'") == 0
    # So is one for the model whose worker n1, the leader, has placed where its needs are met.
    await until(lambda: answers("placed"), what="a placed worker answers", timeout_s=PATIENCE_S)
    big = (await asyncio.to_thread(two.one.tree))["workers/big.local"]
    assert big["address"].startswith("n2/")
    assert "doors" not in await asyncio.to_thread(two.two.tree)

    await until(lambda: sees("n2", "alive"), what="n1 sees n2", timeout_s=PATIENCE_S)
    shown = await asyncio.to_thread(two.one.status)
    assert (shown["n1"]["state"], shown["n1"]["roles"]) == ("here", ["door", "control"])
    assert [w["worker_id"] for w in shown["n2"]["workers"]] == ["echo.n2"]

    # A version that is registered and offered at one node runs at the other, by n2's own registry.
    def models(node: str, *words: str) -> None:
        done = tether("models", *words, "--node", node, cwd=two.folder)
        assert done.returncode == 0, done.stderr

    await asyncio.to_thread(models, "n1", "register", "echo@2", "--engine", "echo")
    assert (await two.ask("echo@2")).status_code == 404
    await asyncio.to_thread(models, "n1", "promote", "echo@2")
    await until(lambda: answers("echo@2"), what="n2 runs the canary", timeout_s=PATIENCE_S)
    await asyncio.to_thread(models, "n2", "rollback", "echo")

    async def is_gone() -> bool:
        return (await two.ask("echo@2")).status_code == 404

    await until(is_gone, what="n1 has heard from n2", timeout_s=PATIENCE_S)
    lines = [json.loads(line) for line in two.one.log.read_text().splitlines() if line[0] == "{"]
    orders = [line["by"] for line in lines if line.get("verb") == "models_changed"]
    assert "n2" in orders, "it was told, and did not only find it"

    # n2 is lost with all of its processes.
    await asyncio.to_thread(two.two.kill)
    await until(lambda: sees("n2", "gone"), what="n2 is gone", timeout_s=PATIENCE_S)
    assert (await two.ask("echo")).status_code == 503
    assert await two.sql("SELECT count(*) FROM leases") == 0
    assert await asyncio.to_thread(two.one.stop) == 0
