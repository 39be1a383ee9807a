"""Supervisors over real processes: order, restarts, kills, escalation, the tree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.contracts import ListModels, Readiness
from supervision.backoff import Backoff
from supervision.contracts import (
    AddChild,
    ChildCounts,
    ChildKind,
    ChildStatus,
    CountChildren,
    DeleteChild,
    RestartChild,
    ShowChildren,
    ShowTree,
    TerminateChild,
    Tree,
    TreeNode,
    WatchTree,
)
from supervision.dynamic import DynamicSupervisor
from supervision.errors import BadRequest, Conflict, Overloaded, PeerLost, TetherError, Unavailable
from supervision.partition import PartitionSupervisor
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import ChildSpec, DynamicOptions, PartitionOptions, Restart, SupervisorOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.system import System
from supervision.tree_view import index_of
from tests.support.supervised_children import Stub, StubOptions
from tests.support.waiting import PATIENCE_S, PatientEndpoint

NODE = "t1"
PORT = 1955


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A node's run directory with a running Admin."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tether-") as name:
        log = pytest.MonkeyPatch()
        log.setenv("THESPLOG_FILE", f"{name}/thespian.log")
        system = System.start(
            {
                "Node Id": NODE,
                "Admin Port": PORT,
                "Run Dir": name,
                "Actor Classes": ["supervision.*", "tests.support.supervised_children.*"],
                "Owner Pid": os.getpid(),
            }
        )
        try:
            yield Path(name)
        finally:
            system.shutdown()
            log.undo()


@pytest.fixture
async def endpoint(run_dir: Path) -> AsyncIterator[Endpoint]:
    async with PatientEndpoint.connect(run_dir=str(run_dir), node=NODE, port=PORT) as endpoint:
        yield endpoint


class Grown:
    """A running tree, and what a test asks of it."""

    def __init__(self, endpoint: Endpoint, root: Address, journal: Path) -> None:
        self.endpoint, self.root, self.journal = endpoint, root, journal
        self.pids: set[int] = set()

    async def tree(self) -> dict[str, TreeNode]:
        tree = await self.endpoint.ask(self.root, ShowTree())
        return self._seen(tree)

    async def until(
        self, condition: Callable[[dict[str, TreeNode]], object]
    ) -> dict[str, TreeNode]:
        """The first tree that fulfils `condition`."""
        async with asyncio.timeout(PATIENCE_S):
            async for tree in self.endpoint.stream(self.root, WatchTree()):
                if condition(nodes := self._seen(tree)):
                    return nodes
        raise AssertionError("the stream of trees ended")

    def _seen(self, tree: Any) -> dict[str, TreeNode]:
        assert isinstance(tree, Tree)
        nodes = {node.path: node for node in tree.nodes}
        self.pids |= {node.pid for node in nodes.values() if node.pid}
        return nodes

    async def tell(self, path: str, command: str) -> Any:
        address = (await self.tree())[path].address
        return await self.endpoint.ask(address, ListModels(credential=command))

    async def kill(self, path: str, number: int = signal.SIGKILL) -> TreeNode:
        node = (await self.tree())[path]
        os.kill(node.pid, number)
        return node

    def lines(self) -> list[str]:
        """The journal, without pids."""
        return [line.rpartition(" ")[0] for line in self.journal.read_text().splitlines()]


Grow = Callable[..., contextlib.AbstractAsyncContextManager[Grown]]


@pytest.fixture
def grow(endpoint: Endpoint, tmp_path: Path) -> Grow:
    """Starts trees; none of their processes is left after the block."""

    @contextlib.asynccontextmanager
    async def grow(options: SupervisorOptions) -> AsyncIterator[Grown]:
        grown = Grown(endpoint, await start_tree(endpoint, options), tmp_path / "journal")
        try:
            await grown.tree()
            yield grown
            with contextlib.suppress(TetherError):
                await grown.tree()
        finally:
            with contextlib.suppress(TetherError):
                await stop_tree(endpoint, grown.root, timeout=PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(ended(pid) for pid in grown.pids))

    return grow


@pytest.fixture
def stub(tmp_path: Path) -> Callable[..., ChildSpec]:
    """Specs of stubs that write one journal."""

    def stub(id: str, **changes: Any) -> ChildSpec:
        fields = StubOptions.__struct_fields__
        own = {name: changes.pop(name) for name in list(changes) if name in fields}
        options = StubOptions(journal=str(tmp_path / "journal"), **own)
        changes = {"shutdown": PATIENCE_S, "start_timeout_s": PATIENCE_S, **changes}
        return Stub.spec(options, id=id, **changes)

    return stub


async def ended(pid: int) -> None:
    """Returns when the process is gone, or a zombie that its parent will collect."""
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


def lives(pid: int) -> bool:
    """Is it more than a zombie?"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def runs_anew(before: TreeNode) -> Callable[[dict[str, TreeNode]], bool]:
    def check(nodes: dict[str, TreeNode]) -> bool:
        node = nodes.get(before.path)
        return node is not None and node.state is ChildStatus.RUNNING and node.pid != before.pid

    return check


async def test_children_start_in_order_and_stop_in_reverse(grow: Grow, stub: Any) -> None:
    inner = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE,
        children=(stub("a"), stub("b", needs=("a",)), stub("c", needs=("a", "b"))),
    )
    options = SupervisorOptions(children=(Supervisor.spec(inner, id="in"), stub("z")))
    async with grow(options) as grown:
        nodes = await grown.tree()
        assert list(nodes) == ["", "in", "in/a", "in/b", "in/c", "z"]
        assert {node.state for node in nodes.values()} == {ChildStatus.RUNNING}
        assert {node.kind for path, node in nodes.items() if path in ("", "in")} == {
            ChildKind.SUPERVISOR
        }
        assert nodes[""].pid == grown.root.pid
        assert [nodes[path].strategy for path in ("", "in")] == ["one_for_one", "rest_for_one"]
        answer = await grown.endpoint.ask(nodes["in/c"].address, Readiness())
        needs = (f"a={nodes['in/a'].address}", f"b={nodes['in/b'].address}")
        assert answer.models == ("in/c", *needs)
        comm = Path(f"/proc/{nodes['in/c'].pid}/comm").read_text().strip()
        assert comm == "tether:in/c"
        await stop_tree(grown.endpoint, grown.root)
        order = ["in/a", "in/b", "in/c", "z"]
        assert [line for line in grown.lines() if line.startswith("ready")] == [
            f"ready {path}" for path in order
        ]
        assert [line for line in grown.lines() if line.startswith("stop")] == [
            f"stop {path}" for path in reversed(order)
        ]


async def test_rest_for_one_restarts_successors_with_new_addresses(grow: Grow, stub: Any) -> None:
    options = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE,
        children=(stub("a"), stub("b", needs=("a",)), stub("c", needs=("b",))),
    )
    async with grow(options) as grown:
        before = await grown.tree()
        await grown.kill("b")
        nodes = await grown.until(runs_anew(before["c"]))
        assert nodes["a"] == msgspec.structs.replace(before["a"], since_s=nodes["a"].since_s)
        assert nodes["b"].last_exit.startswith("vanished")
        assert nodes["c"].last_exit == "shutdown"
        assert [nodes[path].restarts for path in "abc"] == [0, 1, 1]
        answer = await grown.endpoint.ask(nodes["c"].address, Readiness())
        assert answer.models == ("c", f"b={nodes['b'].address}")
        with pytest.raises(PeerLost):
            await grown.endpoint.ask(before["c"].address, Readiness())


async def test_a_killed_child_is_back_soon(grow: Grow, stub: Any) -> None:
    quick = Backoff(initial_s=0.0, max_s=0.0)
    options = SupervisorOptions(
        intensity=1000, children=(stub("a", backoff=quick), stub("b", backoff=quick))
    )
    took = []
    async with grow(options) as grown:
        for _ in range(5):
            began = time.perf_counter()
            before = await grown.kill("b")
            await grown.until(runs_anew(before))
            took.append((time.perf_counter() - began) * 1000)
        nodes = await grown.tree()
        assert nodes["a"].restarts == 0
        assert nodes["b"].restarts == len(took)
    took.sort()
    print(
        f"\nSIGKILL to running, {len(took)} times: p50 {statistics.median(took):.0f} ms, "
        f"p95 {took[round(0.95 * (len(took) - 1))]:.0f} ms"
    )


async def test_what_a_child_says_before_it_ends_is_its_reason(grow: Grow, stub: Any) -> None:
    options = SupervisorOptions(
        children=(stub("a"), stub("once", restart=Restart.TRANSIENT)),
    )
    async with grow(options) as grown:
        before = await grown.tree()
        with contextlib.suppress(PeerLost):
            await grown.tell("a", "fail no space left")
        nodes = await grown.until(runs_anew(before["a"]))
        assert nodes["a"].last_exit == "failed: RuntimeError: no space left"
        with contextlib.suppress(PeerLost):
            await grown.tell("once", "finish")
        nodes = await grown.until(lambda nodes: nodes["once"].state is ChildStatus.STOPPED)
        assert nodes["once"].last_exit == "normal"


async def test_whoever_does_not_stop_is_killed(grow: Grow, stub: Any) -> None:
    options = SupervisorOptions(
        children=(stub("stopped", shutdown=0.5), stub("deaf", deaf=True, shutdown=0.5), stub("z"))
    )
    async with grow(options) as grown:
        await grown.kill("stopped", signal.SIGSTOP)
        await stop_tree(grown.endpoint, grown.root)
        assert [line for line in grown.lines() if line.startswith("stop")] == ["stop z"]


async def test_a_first_start_that_fails_undoes_everything_and_says_why(
    endpoint: Endpoint, stub: Any, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    inner = SupervisorOptions(
        children=(stub("a"), stub("b", broken=str(tmp_path / "broken"))),
    )
    options = SupervisorOptions(children=(stub("first"), Supervisor.spec(inner, id="in")))
    with pytest.raises(Unavailable, match=r"in could not start.*in/b could not start.*on fire"):
        await start_tree(endpoint, options)
    lines = (tmp_path / "journal").read_text().splitlines()
    pids = {int(line.rpartition(" ")[2]) for line in lines}
    assert len(pids) == 3
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(ended(pid) for pid in pids))
    stops = [line.rpartition(" ")[0] for line in lines if line.startswith("stop")]
    assert stops == ["stop in/a", "stop first"]


async def test_failing_over_and_over_escalates_to_the_top(
    grow: Grow, stub: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    quick = Backoff(initial_s=0.01, max_s=0.02)
    inner = SupervisorOptions(
        intensity=2,
        period_s=60,
        children=(stub("a"), stub("b", broken=str(broken), backoff=quick)),
    )
    options = SupervisorOptions(
        intensity=1,
        period_s=60,
        children=(stub("first"), Supervisor.spec(inner, id="in", backoff=quick)),
    )
    async with grow(options) as grown:
        gone = asyncio.Event()
        grown.endpoint.watch(grown.root, gone.set)
        before = await grown.tree()
        broken.touch()
        await grown.kill("in/b")
        nodes = await grown.until(lambda nodes: "in" in nodes and nodes["in"].restarts)
        assert nodes["in"].last_exit.startswith("failed: in/b had to be restarted")
        assert "more than 2 times in 60 s" in nodes["in"].last_exit
        assert "the disk is on fire" in nodes["in"].last_exit
        assert nodes["first"].pid == before["first"].pid
        async with asyncio.timeout(PATIENCE_S):
            await gone.wait()  # the second time is one too many for the root
        assert grown.lines()[-1] == "stop first"


async def test_children_of_a_killed_supervisor_end_and_are_replaced(grow: Grow, stub: Any) -> None:
    inner = SupervisorOptions(children=(stub("a"), stub("b")))
    options = SupervisorOptions(children=(Supervisor.spec(inner, id="in"), stub("z")))
    async with grow(options) as grown:
        before = await grown.tree()
        await grown.kill("in")
        nodes = await grown.until(
            lambda nodes: all(
                path in nodes and runs_anew(before[path])(nodes) for path in ("in", "in/a", "in/b")
            )
        )
        assert list(nodes) == ["", "in", "in/a", "in/b", "z"]
        assert nodes["z"].pid == before["z"].pid
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(ended(before["in/a"].pid), ended(before["in/b"].pid))


async def test_an_orphan_that_hangs_is_killed_by_the_root(grow: Grow, stub: Any) -> None:
    inner = SupervisorOptions(children=(stub("a"),))
    options = SupervisorOptions(children=(Supervisor.spec(inner, id="in"),))
    async with grow(options) as grown:
        before = await grown.tree()
        await grown.kill("in/a", signal.SIGSTOP)
        await grown.kill("in")
        async with asyncio.timeout(PATIENCE_S):
            await ended(before["in/a"].pid)


@pytest.mark.parametrize("hangs", [False, True])
async def test_who_must_be_alone_waits_for_an_orphan(grow: Grow, stub: Any, hangs: bool) -> None:
    """It finishes by itself, or the root kills it; both at the cost of one restart."""
    children = (stub("a", stop_s=1.0, alone=True), stub("b", stop_s=1.0))
    inner = DynamicOptions(children=children)
    options = SupervisorOptions(intensity=1, children=(DynamicSupervisor.spec(inner, id="in"),))
    async with grow(options) as grown:
        await grown.until(lambda nodes: {"in/a", "in/b"} <= nodes.keys())
        before = await grown.until(
            lambda nodes: all(node.state is ChildStatus.RUNNING for node in nodes.values())
        )
        if hangs:
            await grown.kill("in/a", signal.SIGSTOP)
        await grown.kill("in")
        nodes = await grown.until(runs_anew(before["in/a"]))
        assert not lives(before["in/a"].pid)
        assert (nodes["in"].restarts, nodes["in/a"].generation) == (1, 1)
        if not hangs:
            lines = grown.journal.read_text().splitlines()
            old, new = before["in/a"].pid, nodes["in/a"].pid
            assert lines.index(f"stop in/a {old}") < lines.index(f"start in/a {new}")


async def test_nothing_outlives_a_killed_root(grow: Grow, stub: Any) -> None:
    inner = SupervisorOptions(children=(stub("a"),))
    options = SupervisorOptions(children=(Supervisor.spec(inner, id="in"), stub("z")))
    async with grow(options) as grown:
        os.kill(grown.root.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(ended(pid) for pid in grown.pids))


async def test_a_dynamic_supervisor_takes_children_and_lets_go_of_them(
    grow: Grow, stub: Any, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    workers = DynamicOptions(max_children=2, children=(stub("w0"),))
    options = SupervisorOptions(children=(DynamicSupervisor.spec(workers, id="workers"),))
    async with grow(options) as grown:
        nodes = await grown.tree()
        at = nodes["workers"].address

        async def add(spec: ChildSpec) -> Any:
            return await grown.endpoint.ask(at, AddChild(spec=msgspec.msgpack.encode(spec)))

        await grown.until(lambda nodes: "workers/w0" in nodes)
        with pytest.raises(Unavailable, match=r"w1 did not start.*the disk is on fire"):
            await add(stub("w1", broken=str(tmp_path / "broken")))
        with pytest.raises(Unavailable, match="w1 did not start"):
            await add(ChildSpec(id="w1", start="tests.support.supervised_children:Nobody"))
        with pytest.raises(Unavailable, match="'Actor Classes'"):
            await add(ChildSpec(id="w1", start="os:system"))
        ready = await add(stub("w1"))
        nodes = await grown.until(lambda nodes: "workers/w1" in nodes)
        assert (nodes["workers/w1"].pid, nodes["workers/w1"].address) == (ready.pid, ready.address)
        with pytest.raises(Conflict, match="already has a child w1"):
            await add(stub("w1"))
        with pytest.raises(Overloaded, match="2 children, as many as it may"):
            await add(stub("w2"))
        with pytest.raises(BadRequest, match="can't start this child"):
            await grown.endpoint.ask(at, AddChild(spec=b"\xc1"))
        await grown.endpoint.ask(at, TerminateChild(id="w1"))
        await ended(ready.pid)
        nodes = await grown.until(lambda nodes: "workers/w1" not in nodes)
        assert nodes["workers/w0"].state is ChildStatus.RUNNING
        with pytest.raises(Conflict, match="no child w1"):
            await grown.endpoint.ask(at, TerminateChild(id="w1"))


async def test_a_static_supervisor_obeys_the_verbs_of_otp(
    grow: Grow, stub: Any, tmp_path: Path
) -> None:
    inner = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE, children=(stub("a"), stub("b", needs=("a",)))
    )
    broken = tmp_path / "broken"
    options = SupervisorOptions(children=(Supervisor.spec(inner, id="in"),))
    async with grow(options) as grown:
        at = (await grown.tree())["in"].address

        async def ask(contract: Any) -> Any:
            return await grown.endpoint.ask(at, contract, timeout=PATIENCE_S)

        async def refused(contract: Any) -> str | None:
            with pytest.raises(Conflict) as caught:
                await ask(contract)
            return caught.value.param

        assert await ask(CountChildren()) == ChildCounts(
            specs=2, active=2, workers=2, supervisors=0
        )
        assert await refused(DeleteChild(id="b")) == "running"
        assert await refused(RestartChild(id="b")) == "running"
        await ask(TerminateChild(id="b"))
        shown = await ask(ShowChildren())
        assert [(n.path, n.state) for n in shown.nodes] == [
            ("in/a", ChildStatus.RUNNING),
            ("in/b", ChildStatus.STOPPED),
        ]
        again = AddChild(spec=msgspec.msgpack.encode(stub("b")))
        assert await refused(again) == "already_present"
        ready = await ask(RestartChild(id="b"))
        answer = await grown.endpoint.ask(ready.address, Readiness())
        assert answer.models[0] == "in/b"
        added = stub("c", needs=("b",), broken=str(broken))
        ready = await ask(AddChild(spec=msgspec.msgpack.encode(added)))
        answer = await grown.endpoint.ask(ready.address, Readiness())
        assert answer.models[0] == "in/c"
        await ask(TerminateChild(id="c"))
        broken.touch()
        with pytest.raises(Unavailable, match=r"in/c did not start.*on fire"):
            await ask(RestartChild(id="c"))
        await grown.until(
            lambda nodes: nodes["in/c"].state is ChildStatus.STOPPED
        )  # the root hears last
        await ask(DeleteChild(id="c"))
        assert await refused(RestartChild(id="c")) == "not_found"
        bad = stub("d", needs=("nobody",))
        with pytest.raises(BadRequest, match="there is no nobody"):
            await ask(AddChild(spec=msgspec.msgpack.encode(bad)))
        await grown.until(lambda nodes: set(nodes) == {"", "in", "in/a", "in/b"})


async def test_a_child_that_hangs_is_killed_and_restarted(grow: Grow, stub: Any) -> None:
    options = SupervisorOptions(
        children=(
            stub("a", probe_s=3.0, shutdown=600.0),
            stub("b", probe_s=600.0),
            Supervisor.spec(SupervisorOptions(children=(stub("x"),)), id="in", probe_s=3.0),
        )
    )
    async with grow(options) as grown:
        for path in ("a", "in"):
            before = await grown.tree()
            stopped = await grown.kill(path, signal.SIGSTOP)
            nodes = await grown.until(runs_anew(stopped))
            assert nodes[path].last_exit == "killed: hung: it has not answered for 3 s"
            assert nodes["b"].pid == before["b"].pid
        await grown.until(
            lambda nodes: "in/x" in nodes and nodes["in/x"].state is ChildStatus.RUNNING
        )


async def test_a_child_that_holds_too_much_is_killed_and_restarted(grow: Grow, stub: Any) -> None:
    limit = 200 << 20
    options = SupervisorOptions(
        children=(stub("a", max_memory_bytes=limit), stub("b", max_memory_bytes=limit))
    )
    async with grow(options) as grown:
        before = await grown.tree()
        with contextlib.suppress(PeerLost):
            await grown.tell("a", "hold 100")
            assert (await grown.tree())["a"].pid == before["a"].pid
            await grown.tell("a", "hold 200")
        nodes = await grown.until(runs_anew(before["a"]))
        assert nodes["a"].last_exit.startswith("killed: memory: it holds ")
        assert nodes["b"].pid == before["b"].pid


async def test_partitions_and_what_a_child_sees_of_the_tree(grow: Grow, stub: Any) -> None:
    parts = PartitionOptions(child=stub("gateway"), partitions=2)
    options = SupervisorOptions(
        children=(PartitionSupervisor.spec(parts, id="gateways"), stub("door", start_s=0.0))
    )
    async with grow(options) as grown:
        before = await grown.tree()
        assert list(before) == ["", "gateways", "gateways/0", "gateways/1", "door"]
        seen = await grown.tell("door", "under gateways")
        assert seen.models == ("gateways/0", "gateways/1")
        killed = await grown.kill("gateways/1")
        found = await grown.tell("door", "wait gateways/1")
        assert found.models[0] in {killed.address, (await grown.tree())["gateways/1"].address}
        nodes = await grown.until(runs_anew(killed))
        assert nodes["gateways/0"].pid == before["gateways/0"].pid
        for verb in (AddChild(spec=msgspec.msgpack.encode(stub("2"))), DeleteChild(id="1")):
            with pytest.raises(BadRequest, match="keys belong to them"):
                await grown.endpoint.ask(before["gateways"].address, verb)


def test_a_key_belongs_to_the_same_partition_in_every_process() -> None:
    assert [index_of(key, 4) for key in ("acme", "globex", "initech")] == [2, 2, 0]
    spread = [index_of(f"tenant-{n}", 4) for n in range(400)]
    assert all(70 < spread.count(index) < 130 for index in range(4))
    with pytest.raises(ValueError, match="no partition"):
        index_of("acme", 0)
