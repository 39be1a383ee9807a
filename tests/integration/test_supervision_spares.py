"""Warm spares: what they become, what they hold, and that nothing depends on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.contracts import ListModels, Readiness
from supervision.backoff import Backoff
from supervision.contracts import ChildStatus, ShowTree, Tree, TreeNode, WatchTree
from supervision.root import start_tree, stop_tree
from supervision.runtime import Endpoint
from supervision.spec import ChildSpec, SupervisorOptions
from supervision.system import System
from tests.support.supervised_children import Stub, StubOptions

PATIENCE_S = 60.0
NODE = "spares"


@pytest.fixture(scope="module")
def run_dir() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tether-") as name:
        log = pytest.MonkeyPatch()
        log.setenv("THESPLOG_FILE", f"{name}/thespian.log")
        system = System.start(
            {
                "Node Id": NODE,
                "Run Dir": name,
                "Actor Classes": ["supervision.*", "tests.support.supervised_children.*"],
                "Owner Pid": os.getpid(),
                "Warm Spares": 1,
            }
        )
        try:
            yield name
        finally:
            system.shutdown()
            log.undo()


class Kept:
    """A supervisor with one child and one spare."""

    def __init__(self, endpoint: Endpoint, root: Any) -> None:
        self.endpoint, self.root = endpoint, root

    async def child(self, but_not: int = 0) -> TreeNode:
        """The child, running, in another process than `but_not`."""
        async with asyncio.timeout(PATIENCE_S):
            async for tree in self.endpoint.stream(self.root, WatchTree(), credit=2):
                assert isinstance(tree, Tree)
                for node in tree.nodes:
                    if (
                        node.path == "a"
                        and node.state is ChildStatus.RUNNING
                        and node.pid != but_not
                    ):
                        return node
        raise AssertionError("the root closed its stream")

    async def spare(self, but_not: int = 0) -> psutil.Process:
        """The spare, as soon as it is warm."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for process in psutil.Process(self.root.pid).children():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if process.name() == "tether-spare" and process.pid != but_not:
                            return process
                await asyncio.sleep(0.02)

    async def kill(self, number: int = signal.SIGKILL) -> TreeNode:
        """Kill the child; its successor."""
        before = await self.child()
        os.kill(before.pid, number)
        return await self.child(before.pid)


@pytest.fixture
async def kept(run_dir: str) -> AsyncIterator[Kept]:
    options = SupervisorOptions(intensity=100, children=(spec("a"),))
    async with Endpoint.connect(run_dir=run_dir, node=NODE) as endpoint:
        root = await start_tree(endpoint, options)
        try:
            yield Kept(endpoint, root)
        finally:
            with contextlib.suppress(Exception):
                await stop_tree(endpoint, root, timeout=PATIENCE_S)


def spec(id: str) -> ChildSpec:
    return Stub.spec(StubOptions(), id=id, backoff=Backoff(initial_s=0.0, max_s=0.0))


async def test_the_next_child_is_made_of_the_spare(kept: Kept) -> None:
    spawned = psutil.Process((await kept.child()).pid)
    was = (spawned.environ(), spawned.cwd(), signals(spawned.pid))
    for _ in range(2):  # it is replaced after its use
        spare = await kept.spare()
        assert spare.num_threads() == 1
        assert descriptors(spare) <= {"pipe", "/dev/null"}
        assert has_read(spare, "loop.cpython")  # uvloop's
        assert not has_read(spare, "torch")
        node = await kept.kill()
        assert node.pid == spare.pid
        assert spare.ppid() == kept.root.pid
        assert spare.name() == "tether:a"
        assert (spare.environ(), spare.cwd(), signals(spare.pid)) == was
        answer = await kept.endpoint.ask(node.address, Readiness())
        assert answer.models == ("a",)
        assert Path(f"/proc/{spare.pid}/fd/0").readlink() == Path("/dev/null")


def descriptors(process: psutil.Process) -> set[str]:
    """The kinds of what it has open besides the standard streams."""
    return {
        str(path.readlink()).split(":", maxsplit=1)[0]
        for path in Path(f"/proc/{process.pid}/fd").iterdir()
        if int(path.name) > 2
    }


def has_read(process: psutil.Process, name: str) -> bool:
    """A shared object of that name is mapped."""
    return any(name in Path(mapped.path).name for mapped in process.memory_maps())


def signals(pid: int) -> list[str]:
    """What is blocked, ignored and caught; the last two of glibc's own threads don't count."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = (line.split() for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt")))
    return [f"{name} {int(mask, 16) & 0x7FFFFFFF:x}" for name, mask in masks]


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_spare_that_hangs_or_died_is_passed_over(kept: Kept, number: int) -> None:
    spare = await kept.spare()
    spare.send_signal(number)
    node = await kept.kill()
    assert node.pid != spare.pid
    psutil.wait_procs([spare], timeout=PATIENCE_S)
    assert not spare.is_running()
    assert (await kept.spare(spare.pid)).pid != spare.pid  # and replaced


async def test_spares_end_with_their_supervisor(kept: Kept) -> None:
    stopped = await kept.spare()
    stopped.send_signal(signal.SIGSTOP)
    os.kill(kept.root.pid, signal.SIGKILL)
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [stopped], PATIENCE_S)
    assert gone == [stopped]


async def test_spares_end_when_their_supervisor_stops(kept: Kept) -> None:
    spare = await kept.spare()
    await stop_tree(kept.endpoint, kept.root, timeout=PATIENCE_S)
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [spare], PATIENCE_S)
    assert gone == [spare]


async def test_children_of_spares_work_like_others(kept: Kept) -> None:
    await kept.spare()
    node = await kept.kill()
    with contextlib.suppress(Exception):
        await kept.endpoint.ask(node.address, ListModels(credential="fail no space left"))
    again = await kept.child(node.pid)
    assert again.last_exit == "failed: RuntimeError: no space left"
    tree = await kept.endpoint.ask(kept.root, ShowTree())
    assert {line.path: line.restarts for line in tree.nodes} == {"": 0, "a": 2}
