"""A node that ends because its root, its Admin or its owner was killed: nobody is there to stop it
in order, and it stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from supervision.contracts import ChildStatus, ShowTree
from supervision.dynamic import DynamicSupervisor
from supervision.root import start_tree
from supervision.runtime import Address, Endpoint
from supervision.runtime.sockets import socket_path
from supervision.spec import ChildSpec, DynamicOptions, SupervisorOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from tests.support.ports import free_port
from tests.support.supervised_children import Stub, StubOptions
from tests.support.waiting import PATIENCE_S, PatientEndpoint

NODE = "t1"
LEDGER = "control/ledger"
ORDER = ["base", "control/ledger", "control/gate", "workers", "doors/d"]  # of starting


class Run:
    """One node with its owner, its Admin and a tree."""

    def __init__(self, folder: Path, owner: int, endpoint: Endpoint) -> None:
        self.journal = folder / "journal"
        self.owner, self.endpoint = owner, endpoint
        self.pids: dict[str, int] = {}

    async def grow(self) -> None:
        """Start a tree in the shape of a node's: the workers settle with the ledger, the door
        with a worker, the ledger with the base."""
        control = SupervisorOptions(
            strategy=Strategy.REST_FOR_ONE,
            children=(self.stub("ledger", settles_with="base"), self.stub("gate")),
        )
        workers = DynamicOptions(
            children=tuple(self.stub(id, stop_s=1.0, settles_with=LEDGER) for id in ("w0", "w1"))
        )
        door = self.stub("d", stop_s=1.5, settles_with="workers/w0")
        options = SupervisorOptions(
            children=(
                self.stub("base"),
                Supervisor.spec(control, id="control"),
                DynamicSupervisor.spec(workers, id="workers"),
                Supervisor.spec(SupervisorOptions(children=(door,)), id="doors"),
            )
        )
        root = await start_tree(self.endpoint, options, timeout=2 * PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                tree = await self.endpoint.ask(root, ShowTree())
                if all(node.state is ChildStatus.RUNNING for node in tree.nodes):
                    break
                await asyncio.sleep(0.02)
        self.pids = {node.path: node.pid for node in tree.nodes}

    def stub(self, id: str, **options: Any) -> ChildSpec:
        fields = StubOptions(journal=str(self.journal), **options)
        return Stub.spec(fields, id=id, shutdown=PATIENCE_S, start_timeout_s=PATIENCE_S)

    def lines(self, *words: str) -> list[str]:
        """Those of the journal that begin with such a word, without pids."""
        lines = self.journal.read_text().splitlines()
        return [line.rpartition(" ")[0] for line in lines if line.split()[0] in words]

    async def ended(self, *paths: str) -> None:
        """Returns when these processes are gone, or all."""
        async with asyncio.timeout(2 * PATIENCE_S):
            await asyncio.gather(*(ended(self.pids[path]) for path in paths or self.pids))

    def in_order(self) -> None:
        """All have stopped, one after the other, and had whom they needed."""
        stops = [
            "workers" if path.startswith("workers/") else path
            for path in (line.removeprefix("stop ") for line in self.lines("stop"))
        ]
        workers = stops.index("workers")
        assert stops.pop(workers + 1) == "workers"  # they have no order
        assert stops == ORDER[::-1]
        assert self.lines("unsettled") == []
        assert len(self.lines("settled")) == 4


async def ended(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


OWNER = """
import json, os, sys
from supervision.system import System
system = System.start({**json.loads(sys.argv[1]), "Owner Pid": os.getpid()})
print("up", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """A node that runs; nothing of it is left behind."""
    with tempfile.TemporaryDirectory(prefix="tether-") as folder:
        port = free_port()
        capabilities = {
            "Node Id": NODE,
            "Admin Port": port,
            "Run Dir": folder,
            "Actor Classes": ["supervision.*", "tests.support.supervised_children.*"],
        }
        owner = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", OWNER, json.dumps(capabilities)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "THESPLOG_FILE": f"{folder}/thespian.log",
            },
        )  # fmt: skip
        try:
            assert owner.stdout is not None
            assert await asyncio.to_thread(owner.stdout.readline) == b"up\n"
            async with PatientEndpoint.connect(run_dir=folder, node=NODE, port=port) as endpoint:
                run = Run(tmp_path, owner.pid, endpoint)
                admin = pid_of(folder, endpoint.admin)
                await run.grow()
                run.pids["admin"] = admin
                yield run
        finally:
            owner.kill()
            owner.communicate()
        for pid in run.pids.values():
            kill(pid, signal.SIGCONT)
        await run.ended()


def pid_of(run_dir: str, address: Address) -> int:
    """Of the process that listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(socket_path(run_dir, address))
        size = struct.calcsize("3i")
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", raw)[0])


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


VICTIMS: dict[str, Callable[[Run], list[int]]] = {
    "root": lambda run: [run.pids[""]],
    "owner": lambda run: [run.owner],
    "admin": lambda run: [run.pids["admin"]],
    "root, Admin and owner": lambda run: [run.pids[""], run.pids["admin"], run.owner],
    "root and a supervisor": lambda run: [run.pids[""], run.pids["control"]],
}


@pytest.mark.parametrize("victim", VICTIMS)
async def test_orphans_stop_in_the_order_of_the_tree(run: Run, victim: str) -> None:
    for pid in VICTIMS[victim](run):
        os.kill(pid, signal.SIGKILL)
    await run.ended(*(path for path in run.pids if path != "admin"))
    run.in_order()


async def test_orphans_that_are_told_to_end_as_well_keep_the_order(run: Run) -> None:
    """As the next `tether up` tells them."""
    os.kill(run.owner, signal.SIGKILL)
    for _ in range(20):
        for pid in run.pids.values():
            kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.02)
    await run.ended()
    run.in_order()


async def test_who_hangs_holds_up_the_others_for_a_while_and_they_keep_the_order(run: Run) -> None:
    os.kill(run.pids["doors/d"], signal.SIGSTOP)
    os.kill(run.pids[""], signal.SIGKILL)
    await run.ended("workers/w0", "workers/w1")
    assert [line.split("/")[0] for line in run.lines("stop")] == ["stop workers"] * 2
    assert len(run.lines("settled")) == 2  # the ledger waits for the door even longer
    os.kill(run.pids["doors/d"], signal.SIGKILL)
    await run.ended(*(path for path in run.pids if path != "admin"))
    assert run.lines("stop")[2:] == [f"stop {path}" for path in ORDER[2::-1]]
    assert run.lines("unsettled") == []


async def test_a_child_that_is_told_to_end_alone_waits_for_nobody(run: Run) -> None:
    """The root lives, and has another one started."""
    async with asyncio.timeout(PATIENCE_S):
        os.kill(run.pids["base"], signal.SIGTERM)
        await run.ended("base")
    assert run.lines("stop") == ["stop base"]
