"""A node with a PostgreSQL and a control chain of its own, under whose root `bench/faults.py` grows
the supervisors that it hurts."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from actors.contracts import ModelCard
from actors.gateway import Gateway, GatewayOptions
from actors.postgres import Postgres, PostgresOptions
from actors.registry import Registry, RegistryOptions
from actors.reservation.reservation import Reservation, ReservationOptions
from actors.roster import Roster
from actors.scheduler import Scheduler
from actors.stores.database import connect, migrate
from actors.stores.embedded import Embedded
from actors.worker import Worker, WorkerOptions
from bench import _fault_actors as faulty
from bench._lent_scheduler import LentScheduler
from supervision.backoff import Backoff
from supervision.child import Supervised
from supervision.contracts import (
    AddChild,
    ChildStatus,
    DeleteChild,
    ShowTree,
    TerminateChild,
    Tree,
    TreeNode,
    WatchTree,
)
from supervision.dynamic import DynamicSupervisor
from supervision.partition import PartitionSupervisor
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import ChildSpec, DynamicOptions, PartitionOptions, SupervisorOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.system import System
from tether.http.options import DoorOptions
from tether.http.server_actor import FrontDoor

PATIENCE_S: Final = 90.0
NODE: Final = "faults"
CARD: Final = ModelCard(name="echo", version="1", engine="echo", context=4096)
#: Deaths that are caused on purpose don't wait for one another.
QUICK: Final = Backoff(initial_s=0.05, max_s=0.1)

Kind = tuple[type[Supervised], type[Supervised], Any]  # the real class, its stand-in, options
Nodes = dict[str, TreeNode]


class FaultNode:
    """One run of it."""

    def __init__(self, endpoint: Endpoint, root: Address, folder: Path, dsn: str) -> None:
        self.endpoint, self.root, self.folder = endpoint, root, folder
        self.kinds = kinds(folder, dsn)

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, dsn: str, system: System) -> AsyncIterator[FaultNode]:
        """Its tree from start to stop; `system` is its Admin's."""
        control = SupervisorOptions(
            strategy=Strategy.REST_FOR_ONE,
            children=(
                Registry.spec(RegistryOptions(dsn=dsn, catalog=(CARD,))),
                Roster.spec(),
                Reservation.spec(ReservationOptions(dsn=dsn)),
                Scheduler.spec(),
            ),
        )
        options = SupervisorOptions(
            intensity=1000, children=(Supervisor.spec(control, id="control"),)
        )
        async with Endpoint.connect(run_dir=str(folder / "run"), node=NODE) as endpoint:
            root = await start_tree(endpoint, options)
            try:
                yield cls(endpoint, root, folder, dsn)
            finally:
                await stop_tree(endpoint, root)

    # ---- what grows under the root

    @asynccontextmanager
    async def grown(self, id: str, options: SupervisorOptions) -> AsyncIterator[None]:
        """A supervisor `id` with these children; nothing is left of it after the block."""
        spec = Supervisor.spec(options, id=id, backoff=QUICK)
        ask = self.endpoint.ask
        await ask(self.root, AddChild(spec=msgspec.msgpack.encode(spec)), timeout=PATIENCE_S)
        try:
            yield
        finally:
            await ask(self.root, TerminateChild(id=id), timeout=PATIENCE_S)
            await ask(self.root, DeleteChild(id=id), timeout=PATIENCE_S)

    async def tree(self) -> Nodes:
        """All lines, by path."""
        tree = await self.endpoint.ask(self.root, ShowTree(), timeout=PATIENCE_S)
        assert isinstance(tree, Tree)
        return {node.path: node for node in tree.nodes}

    async def until(self, condition: Callable[[Nodes], object]) -> tuple[Nodes, float]:
        """The first tree that fulfils it, and when it was seen (monotonic).

        Raises:
            TimeoutError: none did within `PATIENCE_S`.
        """
        nodes: Nodes = {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for tree in self.endpoint.stream(self.root, WatchTree(), credit=2):
                    assert isinstance(tree, Tree)
                    nodes = {node.path: node for node in tree.nodes}
                    if condition(nodes):
                        return nodes, time.monotonic()
        except TimeoutError:
            shown = ", ".join(f"{n.path} {n.state} ({n.last_exit})" for n in nodes.values())
            raise TimeoutError(f"this tree did not change as expected: {shown}") from None
        raise AssertionError("the root closed its stream")

    async def ask(self, address: str, contract: Any) -> Any:
        return await self.endpoint.ask(address, contract, timeout=PATIENCE_S)


def kinds(folder: Path, dsn: str) -> dict[str, Kind]:
    """Every kind of actor of a node; supervisors have two bystanders each."""
    bystander = faulty.Bystander.spec(id="x", backoff=QUICK)
    two = tuple(msgspec.structs.replace(bystander, id=id) for id in "xy")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chain = SupervisorOptions(strategy=Strategy.REST_FOR_ONE, intensity=50, children=two)
    flat = SupervisorOptions(intensity=50, children=two)
    parts = PartitionOptions(child=bystander, partitions=2, intensity=50)
    worker = WorkerOptions(
        worker_id="w", node_id=NODE, cards=(CARD,), cache_dir=str(folder / "cache")
    )
    postgres = PostgresOptions(data_dir=str(folder / "pg2"), socket_dir=str(folder / "s2"))
    door = DoorOptions(host="127.0.0.1", port=port, gateways=1)
    registry = RegistryOptions(dsn=dsn, catalog=(CARD,))
    return {
        "registry": (Registry, faulty.FaultyRegistry, registry),
        "roster": (Roster, faulty.FaultyRoster, None),
        "reservation": (Reservation, faulty.FaultyReservation, ReservationOptions(dsn=dsn)),
        "scheduler": (LentScheduler, faulty.FaultyScheduler, None),
        "gateway": (Gateway, faulty.FaultyGateway, GatewayOptions(dsn=dsn)),
        "worker": (Worker, faulty.FaultyWorker, worker),
        "door": (FrontDoor, faulty.FaultyDoor, door),
        "postgres": (Postgres, faulty.FaultyPostgres, postgres),
        "control": (Supervisor, faulty.FaultySupervisor, chain),
        "gateways": (PartitionSupervisor, faulty.FaultyPartitions, parts),
        "workers": (DynamicSupervisor, faulty.FaultyDynamic, DynamicOptions(children=two)),
        "doors": (Supervisor, faulty.FaultySupervisor, flat),
    }


def all_run(nodes: Nodes) -> bool:
    return all(node.state is ChildStatus.RUNNING for node in nodes.values())


def back(was: Nodes, nodes: Nodes, expected: dict[str, int]) -> bool:
    """All that was there runs, and whoever had to be restarted in another process."""
    return (
        set(was) <= set(nodes)
        and all_run(nodes)
        and all(nodes[f"sut/{id}"].pid != was[f"sut/{id}"].pid for id in expected)
    )


def child_of(kind: Kind, id: str, *, stand_in: bool, **changes: Any) -> ChildSpec:
    """The spec of a child of that kind."""
    cls = kind[1] if stand_in else kind[0]
    spec = cls.spec(kind[2], id=id, backoff=QUICK, **changes)
    return msgspec.structs.replace(spec, needs=())  # what it needs is in the control chain


def bystanders(ids: Iterable[str]) -> list[ChildSpec]:
    return [faulty.Bystander.spec(id=id, backoff=QUICK) for id in ids]


def run_with_node(act: Callable[[FaultNode], Any], *, spares: int = 0) -> Any:
    """Starts a node, has `act` done with it, and stops it; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="tf"))
    (folder / "faults").mkdir()
    (folder / "cache").mkdir()
    os.environ[faulty.FAULTS] = str(folder / "faults")
    os.environ["THESPLOG_FILE"] = str(folder / "thespian.log")
    server = Embedded(folder / "pg", folder / "s")

    async def begin() -> None:
        await server.start()
        connection = await connect(server.dsn)
        await migrate(connection)
        await connection.close()

    async def run() -> Any:
        async with FaultNode.running(folder, server.dsn, system) as node:
            return await act(node)

    try:
        asyncio.run(begin())
        system = System.start(
            {
                "Node Id": NODE,
                "Run Dir": str(folder / "run"),
                "Actor Classes": [
                    "actors.*",
                    "supervision.*",
                    "bench.*",
                    "tether.http.server_actor:FrontDoor",
                ],
                "Owner Pid": os.getpid(),
                "Warm Spares": spares,
            }
        )
        try:
            return asyncio.run(run())
        finally:
            system.shutdown()
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder, ignore_errors=True)
