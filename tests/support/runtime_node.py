"""A node for tests: an Admin on a run directory of its own, ended whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
from thespian.actors import ActorSystem

from supervision.runtime import Endpoint
from tests.support.waiting import PATIENCE_S, PatientEndpoint

ALLOWED = ["tests.support.runtime_actors.*", "tests.support.runtime_dies:Never"]


class Node:
    """`system` is Thespian's blocking door; `pids()` are all processes of the node."""

    def __init__(self, run_dir: Path, **capabilities: Any) -> None:
        self.run_dir = run_dir
        self.capabilities = {
            "Node Id": "n1",
            "Run Dir": str(run_dir),
            "Admin Port": 1900,
            "Actor Classes": ALLOWED,
            **capabilities,
        }
        self.system = ActorSystem("tether", dict(self.capabilities), transientUnique=True)
        try:
            self.admin_pid = asyncio.run(self._admin_pid())
        except BaseException:
            self.system.shutdown()
            raise

    async def _admin_pid(self) -> int:
        async with self.endpoint() as endpoint:
            return endpoint.admin_pid

    def endpoint(self, **options: Any) -> Endpoint:
        return PatientEndpoint.connect(
            run_dir=str(self.run_dir),
            node=self.capabilities["Node Id"],
            port=self.capabilities["Admin Port"],
            **options,
        )

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.admin_pid).children(recursive=True)
        return []

    def stop(self) -> None:
        processes = self.children()
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(self.admin_pid))
        self.system.shutdown()
        deadline = time.monotonic() + PATIENCE_S
        while any(alive(p.pid) for p in processes) and time.monotonic() < deadline:
            time.sleep(0.01)
        late = [p for p in processes if alive(p.pid)]
        for process in late:
            process.kill()
        assert not late, f"outlived their node: {late}"


def alive(pid: int) -> bool:
    """Does it run? One that nobody has reaped yet doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def running_node(**capabilities: Any) -> Iterator[Node]:
    run_dir = Path(tempfile.mkdtemp(prefix="rt-"))
    try:
        node = Node(run_dir, **capabilities)
        try:
            yield node
        finally:
            node.stop()
    finally:
        shutil.rmtree(run_dir)


def wait_for(condition: Any, timeout: float = PATIENCE_S) -> None:
    """Polls something outside of our processes that has no event to wait on."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.01)


@contextlib.asynccontextmanager
async def fresh_node(**capabilities: Any) -> AsyncIterator[Node]:
    """As `running_node`, where a loop runs: Thespian's door blocks."""
    manager = running_node(**capabilities)
    node = await asyncio.to_thread(manager.__enter__)
    try:
        yield node
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
