"""Postgres and reservation as children of a supervisor, on real processes, killed one by one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.contracts import Assignment, JobState, Outcome, Reserve, Settle, Settled, Usage
from actors.errors import KeyReused
from actors.postgres import Postgres, PostgresOptions
from actors.reservation.reservation import Reservation, ReservationOptions
from actors.stores.database import connect
from actors.stores.embedded import Embedded
from actors.stores.ledger import LedgerOptions
from supervision.contracts import ChildStatus, ShowTree, TreeNode, WatchTree
from supervision.errors import BadRequest, TetherError, Unavailable
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import SupervisorOptions
from supervision.system import System
from tests.support.messages import reserve
from tests.support.open_jobs import Open, still_open
from tests.support.waiting import PATIENCE_S, PatientEndpoint, until

NODE = "r1"
PORT = 1956


@pytest.fixture(scope="module")
def run_dir() -> Iterator[Path]:
    """A node's run directory with a running Admin."""
    with tempfile.TemporaryDirectory(prefix="tether-") as name, pytest.MonkeyPatch.context() as env:
        env.setenv("THESPLOG_FILE", f"{name}/thespian.log")
        system = System.start(
            {
                "Node Id": NODE,
                "Admin Port": PORT,
                "Run Dir": name,
                "Actor Classes": ["supervision.*", "actors.*"],
                "Owner Pid": os.getpid(),
            }
        )
        try:
            yield Path(name)
        finally:
            system.shutdown()


class Stores:
    """The two children under a root, and what the tests ask of them."""

    def __init__(self, endpoint: Endpoint, root: Address, server: Embedded) -> None:
        self.endpoint, self.root, self.server = endpoint, root, server

    async def node(self, path: str) -> TreeNode:
        tree = await self.endpoint.ask(self.root, ShowTree())
        return next(node for node in tree.nodes if node.path == path)

    async def anew(self, before: TreeNode) -> TreeNode:
        """The next generation of a child, once it runs."""
        async with asyncio.timeout(PATIENCE_S):
            async for tree in self.endpoint.stream(self.root, WatchTree(), credit=2):
                for node in tree.nodes:
                    if (
                        node.path == before.path
                        and node.state is ChildStatus.RUNNING
                        and node.generation > before.generation
                    ):
                        return node
        raise AssertionError("the stream of trees ended")

    async def ask(self, contract: Reserve | Settle) -> Any:
        """The answer of the reservation, asked again while it or PostgreSQL is away: what a
        scheduler and a settler do."""
        while True:
            with contextlib.suppress(Unavailable):
                node = await self.node("reservation")
                if node.state is ChildStatus.RUNNING:
                    return await self.endpoint.ask(node.address, contract)
            await asyncio.sleep(0.02)

    async def counted(self) -> Open:
        connection = await connect(self.server.dsn)
        try:
            return await still_open(connection)
        finally:
            await connection.close()


Grow = Callable[..., Awaitable[Stores]]


@pytest_asyncio.fixture
async def stores(run_dir: Path) -> AsyncIterator[Stores]:
    folder = Path(tempfile.mkdtemp(prefix="tether-"))
    server = Embedded(folder / "pg", folder / "s")
    options = PostgresOptions(data_dir=str(server.data_dir), socket_dir=str(server.socket_dir))
    tree = SupervisorOptions(
        intensity=20,
        children=(
            Postgres.spec(options),
            Reservation.spec(
                ReservationOptions(dsn=server.dsn, ledger=LedgerOptions(sweep_s=0.05))
            ),
        ),
    )
    try:
        async with PatientEndpoint.connect(run_dir=str(run_dir), node=NODE, port=PORT) as endpoint:
            root = await start_tree(endpoint, tree)
            yield Stores(endpoint, root, server)
            with contextlib.suppress(TetherError):
                await stop_tree(endpoint, root, timeout=60)
        assert server.running() is None  # an orderly end stops the server
    finally:
        await server.stop()
        shutil.rmtree(folder)


def settle(job: str, token: int = 1) -> Settle:
    return Settle(job_id=job, fencing_token=token, outcome=Outcome.COMPLETED, usage=Usage())


async def test_contracts_are_answered_and_errors_cross_the_wire(stores: Stores) -> None:
    asked = reserve("one")
    given = await stores.ask(asked)
    assert given.assignment == Assignment(
        job_id=asked.job.job_id, worker_id="w1", worker_address="n1/w1/1", fencing_token=1
    )
    assert (await stores.ask(reserve("one"))).assignment.state is JobState.RUNNING
    assert await stores.ask(settle(asked.job.job_id)) == Settled(
        job_id=asked.job.job_id, first=True
    )
    assert await stores.ask(settle(asked.job.job_id)) == Settled(
        job_id=asked.job.job_id, first=False
    )
    with pytest.raises(KeyReused, match="used for another request"):
        await stores.ask(reserve("one", fingerprint=b"other"))
    with pytest.raises(BadRequest, match="is no job id"):
        await stores.ask(settle("17"))
    assert await stores.counted() == Open(running=0, leases=0, overdue=0)


async def test_each_is_killed_under_load_and_every_job_is_settled_once(stores: Stores) -> None:
    """The reservation, the actor of PostgreSQL, and PostgreSQL itself, while 16 clients work."""
    over, settled = asyncio.Event(), []

    async def client(name: int) -> None:
        count = 0
        while not over.is_set():
            asked = reserve(f"{name}-{count}")
            count += 1
            given = await stores.ask(asked)
            assigned = given.assignment
            assert assigned.state is JobState.NEW
            await stores.ask(settle(assigned.job_id, assigned.fencing_token))
            settled.append(assigned.job_id)

    clients = [asyncio.create_task(client(n)) for n in range(16)]
    try:
        before = await stores.node("reservation")
        os.kill(before.pid, signal.SIGKILL)
        await stores.anew(before)

        before, server_pid = await stores.node("postgres"), stores.server.running()
        os.kill(before.pid, signal.SIGKILL)
        after = await stores.anew(before)
        assert stores.server.running() == server_pid  # adopted: nobody was disturbed
        assert server_pid is not None

        os.kill(server_pid, signal.SIGKILL)
        again = await stores.anew(after)
        assert again.last_exit.startswith("failed: the PostgreSQL server ended")
        assert stores.server.running() not in (None, server_pid)
        done = len(settled)
        await until(lambda: len(settled) >= done + 32)
    finally:
        over.set()
        await asyncio.gather(*clients)
    assert await stores.counted() == Open(running=0, leases=0, overdue=0)
    connection = await connect(stores.server.dsn)
    rows = await connection.fetch("SELECT job_id::text FROM ledger ORDER BY job_id")
    await connection.close()
    assert [row[0] for row in rows] == sorted(settled)


async def test_a_root_that_is_killed_takes_the_server_with_it(stores: Stores) -> None:
    """Nothing is orphaned: whoever loses his supervisor ends in order, and stops the server."""
    root, server_pid = await stores.node(""), stores.server.running()
    assert server_pid is not None
    server_gone = asyncio.ensure_future(stores.server.ended())
    await asyncio.sleep(0)
    os.kill(root.pid, signal.SIGKILL)
    await asyncio.wait_for(server_gone, PATIENCE_S)
    assert stores.server.running() is None
