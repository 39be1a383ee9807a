"""A door, a worker and two control nodes: two of them know no database, and control nodes are lost
while answers run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
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
from tests.support.cluster_folders import Listed, furnished
from tests.support.node_process import Node, tether, until
from tests.support.ports import free_port

PATIENCE_S = 60.0
ROLES = {"c1": "control", "c2": "control", "d1": "door", "w1": "worker"}
WHO = (
    "SELECT array_agg(DISTINCT usename::text ORDER BY usename::text) FROM pg_stat_activity "
    "WHERE application_name = 'tether' AND backend_type = 'client backend'"
)


class Parts:
    """Each kind of node has a folder of its own, as a machine has: two have no DSN in the file."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder, self.dsn = folder, dsn
        nodes = [
            Listed(id, (role,), admin_port=free_port(), leader=role == "control")
            for id, role in ROLES.items()
        ]
        told = f"[stores]\nroles = true\npostgres = {json.dumps(dsn)}"
        self.members = furnished(folder, nodes, http=free_port(), stores=told)
        self.key = ""

    async def ask(self, token: str, text: str = "far away", model: str = "echo") -> httpx2.Response:
        """A request under this retry token."""
        url = self.members["d1"].state["url"]
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            return await client.post(
                "/v1/chat/completions",
                headers={"authorization": f"Bearer {self.key}", "idempotency-key": token},
                json={"model": model, "messages": [{"role": "user", "content": text}]},
            )

    async def sql(self, statement: str) -> Any:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def tree(self, id: str) -> dict[str, dict[str, Any]]:
        return await asyncio.to_thread(self.members[id].tree)


@pytest_asyncio.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    with tempfile.TemporaryDirectory(prefix="tr-") as sockets:
        database = Embedded(tmp_path / "postgres", Path(sockets))
        made = Parts(tmp_path, await database.start())
        members = made.members.values()
        try:
            control = made.members["c1"].folder
            granted = await asyncio.to_thread(tether, "db", "roles", cwd=control)
            assert granted.returncode == 0, granted.stderr
            for member in members:
                member.start()
            for member in members:
                await asyncio.to_thread(member.wait_ready)
            key = tether("keys", "create", "acme", "--node", "c1", cwd=made.members["c1"].folder)
            assert key.returncode == 0, key.stderr
            made.key = key.stdout.strip()
            yield made
        finally:
            for member in members:
                if member.process is not None and member.process.poll() is None:
                    member.process.terminate()
            for member in members:
                if member.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        await asyncio.to_thread(member.process.wait, 60)
                    member.kill()
            await database.stop()


@pytest.mark.timeout(600)
async def test_parts_of_a_network_on_nodes_of_their_own(parts: Parts) -> None:
    async def answers() -> bool:
        return (await parts.ask("first")).status_code == 200

    await until(answers, what="the worker node answers", timeout_s=PATIENCE_S)

    # Of the control chain, a door's and a worker's node have the roster; and neither has a DSN.
    for id in ("d1", "w1"):
        tree = await parts.tree(id)
        assert {path for path in tree if path.startswith("control/")} == {"control/roster"}
        assert parts.members[id].state["dsn"] == ""
        for pid in parts.members[id].pids():
            assert parts.dsn.encode() not in _told(pid), f"process {pid} of {id} was told the DSN"
    assert "doors/0" in await parts.tree("d1") and "doors" not in await parts.tree("c1")
    assert "workers/echo.w1" in await parts.tree("w1")

    # Who connects is the user of its kind, and the owner of the schema is none of them.
    assert await parts.sql(WHO) == ["tether_gateway", "tether_registry", "tether_reservation"]

    # What is registered at a control node runs at the worker, which has no registry.
    for words in (("register", "echo@2", "--engine", "echo"), ("promote", "echo@2")):
        folder = parts.members["c1"].folder
        made = await asyncio.to_thread(tether, "models", *words, "--node", "c1", cwd=folder)
        assert made.returncode == 0, made.stderr

    async def answers_anew() -> bool:
        return (await parts.ask("anew", model="echo@2")).status_code == 200

    await until(answers_anew, what="the worker node runs the canary", timeout_s=PATIENCE_S)

    # The reservations of both control nodes are killed while answers run.
    done = asyncio.Event()
    tokens: list[str] = []

    async def client(number: int) -> None:
        turn = 0
        while not done.is_set():
            token = f"client-{number}-{turn}"
            turn += 1
            answer = await parts.ask(token, text="many words " * 40)
            assert answer.status_code == 200, answer.text
            tokens.append(token)

    clients = [asyncio.create_task(client(number)) for number in range(6)]
    for turn in range(4):
        await _some_more(tokens, 10, clients)
        tree = await parts.tree(("c1", "c2")[turn % 2])
        with contextlib.suppress(ProcessLookupError):
            os.kill(tree["control/reservation"]["pid"], signal.SIGKILL)
    await _some_more(tokens, 20, clients)

    # One control node is lost as a whole, for good.
    await asyncio.to_thread(parts.members["c1"].kill)
    await _some_more(tokens, 20, clients)
    done.set()
    await asyncio.gather(*clients)

    async def settled() -> bool:
        return bool(await parts.sql("SELECT count(*) FROM jobs WHERE state <> 'settled'") == 0)

    await until(settled, what="all is settled", timeout_s=PATIENCE_S)
    answered = len(tokens) + 2
    assert len(set(tokens)) == len(tokens)
    assert await parts.sql("SELECT count(*) FROM ledger") == answered
    assert await parts.sql("SELECT count(*) FROM jobs WHERE outcome = 'completed'") == answered
    assert await parts.sql("SELECT count(*) FROM jobs WHERE worker_id <> 'echo.w1'") == 0
    await _is_told_what_it_lacks(parts)


async def test_each_actor_of_a_lone_node_is_a_user_of_its_own(echo_node: Node) -> None:
    assert await echo_node.sql(WHO) == ["tether_gateway", "tether_registry", "tether_reservation"]


async def _is_told_what_it_lacks(parts: Parts) -> None:
    worker = parts.members["w1"]
    lost = await asyncio.to_thread(
        tether, "keys", "create", "acme", "--node", "w1", cwd=worker.folder
    )
    assert lost.returncode != 0
    assert "w1 has not the role control" in lost.stderr
    models = await asyncio.to_thread(
        tether, "models", "show", "echo", "--node", "w1", cwd=worker.folder
    )
    assert "w1 has not the role control, and no registry" in models.stderr
    checked = await asyncio.to_thread(tether, "check", "--node", "w1", cwd=worker.folder)
    assert (checked.returncode, checked.stderr) == (0, "")
    shared = parts.members["c2"].folder
    checked = await asyncio.to_thread(tether, "check", "--node", "w1", cwd=shared)
    assert checked.returncode == 0
    assert "warning: stores.postgres: node w1 has not the role control" in checked.stderr
    whole = await asyncio.to_thread(tether, "check", cwd=worker.folder)
    assert whole.returncode == 0
    assert "node c1 can't be started with this file: stores.postgres" in whole.stdout


async def _some_more(tokens: list[str], count: int, clients: list[asyncio.Task[None]]) -> None:
    """So many answers from now on."""
    wanted = len(tokens) + count

    async def there() -> bool:
        for client in clients:
            if client.done():
                client.result()
        return len(tokens) >= wanted

    await until(there, what=f"{wanted} answers", timeout_s=PATIENCE_S)


def _told(pid: int) -> bytes:
    """What a process was started with."""
    try:
        return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return b""
