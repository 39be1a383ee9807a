"""The request path as it runs in a node, without front doors: the control chain and two workers
with the echo engine, under a root supervisor, on a PostgreSQL of the test run's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psutil

from actors.contracts import (
    ChatInput,
    Chunk,
    Completed,
    Infer,
    Message,
    ModelCard,
    Readiness,
    Sampling,
)
from actors.gateway import Gateway, GatewayOptions
from actors.gateway.admission import TenantLimits
from actors.registry import Registry, RegistryOptions
from actors.reservation.reservation import Reservation, ReservationOptions
from actors.roster import Roster, RosterOptions
from actors.scheduler import Scheduler, SchedulerOptions
from actors.stores import keys
from actors.stores.database import connect
from actors.stores.embedded import Embedded
from actors.stores.ledger import LedgerOptions
from actors.worker import Worker, WorkerOptions
from supervision.contracts import ChildStatus, ShowTree, Tree, TreeNode
from supervision.dynamic import DynamicSupervisor
from supervision.errors import Draining, PeerLost, TetherError
from supervision.partition import PartitionSupervisor
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address
from supervision.spec import DynamicOptions, PartitionOptions, SupervisorOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.system import System
from tests.support.databases import TEMPLATE, in_database
from tests.support.waiting import PATIENCE_S, PatientEndpoint

LEDGER = LedgerOptions(reserve_patience_s=PATIENCE_S)
CARD = ModelCard(name="echo", version="1", engine="echo", context=4096)
GATEWAY = "control/gateways/0"
WORKERS = ("w1", "w2")


def options_of(
    dsn: str,
    cache_dir: Path,
    workers: tuple[str, ...],
    slots: int,
    queue: int,
    *cards: ModelCard,
    reserve_s: float = 10.0,
    **more: Any,
) -> SupervisorOptions:
    """The tree of the node. `queue` requests may wait at the scheduler, and that `reserve_s` for
    reservation; `more` are options of the workers."""
    gateway = Gateway.spec(
        GatewayOptions(dsn=dsn, limits=TenantLimits(), grace_s=PATIENCE_S, remember_s=PATIENCE_S),
        id="gateway",
    )
    scheduler = SchedulerOptions(queue=queue, patience_s=PATIENCE_S, reserve_s=reserve_s)
    control = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE,
        intensity=50,
        children=(
            Registry.spec(RegistryOptions(dsn=dsn, catalog=cards)),
            Roster.spec(RosterOptions(suspect_s=6.0, expiry_s=12.0)),
            Reservation.spec(ReservationOptions(dsn=dsn, ledger=LEDGER)),
            Scheduler.spec(scheduler),
            PartitionSupervisor.spec(
                PartitionOptions(child=gateway, partitions=1, intensity=50), id="gateways"
            ),
        ),
    )
    children = tuple(
        Worker.spec(
            WorkerOptions(
                worker_id=worker_id,
                node_id="n1",
                cards=cards,
                cache_dir=str(cache_dir),
                slots=slots,
                report_s=1.0,
                grace_s=PATIENCE_S,
                keep_s=PATIENCE_S,
                **more,
            )
        )
        for worker_id in workers
    )
    return SupervisorOptions(
        children=(
            Supervisor.spec(control, id="control"),
            DynamicSupervisor.spec(DynamicOptions(intensity=50, children=children), id="workers"),
        )
    )


async def until(
    condition: Callable[[], Awaitable[object]], timeout: float = PATIENCE_S, pause: float = 0.01
) -> None:
    """Polls what lies in other processes, the tree and PostgreSQL, and has no event for us."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(pause)


class PathNode:
    """A running node."""

    def __init__(self, run_dir: Path, dsn: str, root: Address, key: str) -> None:
        self.run_dir = run_dir
        self.dsn = dsn
        self.root = root
        self.key = key

    def client(self) -> Client:
        return Client(self)


class Client:
    """What a front door is to the node, for one loop: `async with node.client() as client`."""

    def __init__(self, node: PathNode) -> None:
        self.node = node
        self.endpoint = PatientEndpoint.connect(run_dir=str(node.run_dir), node="n1", port=1901)
        self.database: asyncpg.Connection

    async def __aenter__(self) -> Client:
        await self.endpoint.__aenter__()
        self.database = await connect(self.node.dsn)
        await self.ready()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.database.close()
        await self.endpoint.aclose()

    # ---- the tree

    async def tree(self) -> Tree:
        tree = await self.endpoint.ask(self.node.root, ShowTree())
        assert isinstance(tree, Tree)
        return tree

    async def line(self, path: str, but_not: int = 0) -> TreeNode:
        """The running child at `path`, of another process than `but_not`."""
        found: list[TreeNode] = []

        async def runs() -> bool:
            nodes = (await self.tree()).nodes
            found[:] = [n for n in nodes if n.path == path and n.state is ChildStatus.RUNNING]
            return bool(found) and found[0].pid != but_not

        await until(runs)
        return found[0]

    async def kill(self, path: str) -> TreeNode:
        """SIGKILL to the child at `path`; the line that it had."""
        line = await self.line(path)
        os.kill(line.pid, signal.SIGKILL)
        return line

    async def successor(self, line: TreeNode) -> TreeNode:
        """The next generation of a child."""
        return await self.line(line.path, but_not=line.pid)

    async def gateway(self) -> str:
        return (await self.line(GATEWAY)).address

    async def ready(self) -> None:
        """Returns when a gateway says that the model answers."""

        async def answers() -> bool:
            with contextlib.suppress(TetherError):
                return bool((await self.endpoint.ask(await self.gateway(), Readiness())).models)
            return False

        await until(answers, pause=0.05)

    # ---- requests

    def infer(self, text: str, token: str, **changes: Any) -> Infer:
        sampling = Sampling(max_tokens=changes.pop("max_tokens", 8), **changes.pop("sampling", {}))
        values: dict[str, Any] = {
            "correlation_id": token,
            "credential": self.node.key,
            "model_ref": "echo",
            "input": ChatInput(messages=(Message(role="user", content=text),)),
            "sampling": sampling,
            "retry_token": token,
            "explicit_token": True,
            "fingerprint": text.encode(),
            "deadline_s": 2 * PATIENCE_S,
        }
        return Infer(**(values | changes))

    async def stream(self, infer: Infer, credit: int = 64) -> AsyncIterator[Chunk | Completed]:
        async for item in self.endpoint.stream(await self.gateway(), infer, credit):
            yield item

    async def answer(self, infer: Infer) -> Answer:
        answer = Answer(infer.from_seq)
        async for item in self.stream(infer):
            answer.add(item)
        return answer

    async def stubborn(self, infer: Infer, answer: Answer | None = None) -> Answer:
        """As a front door: takes the stream up again when its gateway is lost."""
        answer = answer or Answer(infer.from_seq)
        while answer.completed is None:
            try:
                async for item in self.stream(
                    msgspec.structs.replace(infer, from_seq=len(answer.ids))
                ):
                    answer.add(item)
            except (PeerLost, Draining):
                answer.reopened += 1
                await asyncio.sleep(0.05)
        return answer

    # ---- the books

    async def job(self, token: str) -> asyncpg.Record:
        row = await self.database.fetchrow("SELECT * FROM jobs WHERE retry_token = $1", token)
        assert row is not None
        return row

    async def known(self, token: str) -> None:
        """Returns when the job is reserved."""
        query = "SELECT count(*) FROM jobs WHERE retry_token = $1"
        await until(lambda: self.database.fetchval(query, token))

    async def settled(self, token: str) -> asyncpg.Record:
        """The job's row once it is closed."""

        async def closed() -> bool:
            return bool((await self.job(token))["state"] == "settled")

        await until(closed)
        return await self.job(token)

    async def ledger(self, job_id: Any) -> list[asyncpg.Record]:
        return list(await self.database.fetch("SELECT * FROM ledger WHERE job_id = $1", job_id))

    async def leases(self) -> int:
        count = await self.database.fetchval("SELECT count(*) FROM leases")
        assert isinstance(count, int)
        return count

    async def no_lease_left(self) -> None:
        async def none() -> bool:
            return not await self.leases()

        await until(none)


class Answer:
    """What was received of an answer; refuses gaps and doubles."""

    def __init__(self, from_seq: int = 0) -> None:
        self.first = from_seq
        self.ids: list[int] = []
        self.text = ""
        self.items: list[Chunk | Completed] = []
        self.completed: Completed | None = None
        self.reopened = 0

    def add(self, item: Chunk | Completed) -> None:
        assert self.completed is None, "something came after the end"
        assert item.seq == self.first + len(self.ids), f"a gap or double at {item.seq}"
        self.ids.extend(item.token_ids)
        self.text += item.text
        self.items.append(item)
        if isinstance(item, Completed):
            self.completed = item


def echoed(text: str, tokens: int) -> str:
    """What the echo engine says to `text`."""
    words = [word for word in text.split() if not word.startswith("delay=")]
    return " ".join(words[n % len(words)] for n in range(tokens))


@contextlib.contextmanager
def running_path(
    server: Embedded,
    workers: tuple[str, ...] = WORKERS,
    slots: int = 64,
    queue: int = 4096,
    card: ModelCard = CARD,
    others: tuple[ModelCard, ...] = (),
    **more: Any,
) -> Iterator[PathNode]:
    """A node from its first process to its last, on a database of its own. Each worker has `card`
    and `others`; see `options_of`."""
    name = f"path_{secrets.token_hex(4)}"

    async def make() -> str:
        connection = await connect(server.dsn)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        await connection.close()
        return in_database(server.dsn, name)

    dsn = asyncio.run(make())
    run_dir = Path(tempfile.mkdtemp(prefix="tp-"))
    system = System.start(
        {
            "Node Id": "n1",
            "Run Dir": str(run_dir),
            "Admin Port": 1901,
            "Actor Classes": ["actors.*", "supervision.*"],
            "Owner Pid": os.getpid(),
        }
    )
    processes: list[psutil.Process] = []
    options = options_of(dsn, run_dir, workers, slots, queue, card, *others, **more)

    async def begin() -> tuple[Address, str]:
        connection = await connect(dsn)
        made = await keys.create(connection, "acme", "test")
        await connection.close()
        endpoint = PatientEndpoint.connect(run_dir=str(run_dir), node="n1", port=1901)
        async with endpoint:
            processes.append(psutil.Process(endpoint.admin_pid))
            return await start_tree(endpoint, options), made.text

    async def end(root: Address) -> None:
        endpoint = PatientEndpoint.connect(run_dir=str(run_dir), node="n1", port=1901)
        async with endpoint:
            await stop_tree(endpoint, root)

    try:
        root, key = asyncio.run(begin())
        try:
            yield PathNode(run_dir, dsn, root, key)
        finally:
            asyncio.run(end(root))
    finally:
        for admin in list(processes):
            processes += admin.children(recursive=True)
        system.shutdown()
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
        for process in alive:
            process.kill()
        shutil.rmtree(run_dir)
        assert not alive, f"outlived their node: {alive}"
