"""What a door says while the disk of its node is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from supervision.contracts import ChildKind, ChildStatus, TreeNode
from tests.support.http_server import KEY, served
from tests.support.waiting import until
from tether.http import storage as module
from tether.http.storage import Storage

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


class OneTree:
    """A tree that says of PostgreSQL what the test wants."""

    def __init__(self) -> None:
        self.state = "running"

    def node(self, path: str) -> TreeNode | None:
        return TreeNode(path=path, kind=ChildKind.WORKER, state=ChildStatus(self.state))


async def test_a_full_disk_is_named_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = OneTree()
    storage = Storage(tree, str(tmp_path))
    watching = asyncio.create_task(storage.watch())
    try:
        async with served(storage=storage) as door, httpx2.AsyncClient(
            base_url=door.url, headers={"authorization": f"Bearer {KEY}"}
        ) as http:  # fmt: skip
            assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200
            monkeypatch.setattr(module, "NEEDED", 1 << 62)  # more than any disk has
            tree.state = "restarting"
            await until(lambda: storage.down)
            refused = await http.post("/v1/chat/completions", json=CHAT)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (503, "disk_full")
            assert str(tmp_path) in error["message"] and "is full" in error["message"]
            assert refused.headers["retry-after"] == "1"
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "disk_full")
            assert str(tmp_path) not in ready.text  # it needs no key
            assert (await http.get("/healthz")).status_code == 200
            tree.state = "running"  # with what little room there is
            await until(lambda: not storage.down)
            assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200
            assert (await http.get("/readyz")).status_code == 200
    finally:
        watching.cancel()
