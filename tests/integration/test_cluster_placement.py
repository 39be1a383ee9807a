"""A convention of three nodes: who leads, and children that run where their needs are met."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import psutil
import pytest

from actors.contracts import Readiness
from supervision.backoff import Backoff
from supervision.contracts import (
    AddChild,
    ChildStatus,
    ConventionShown,
    KillPlaced,
    ShowConvention,
    TreeNode,
    WatchTree,
)
from supervision.dynamic import DynamicSupervisor
from supervision.errors import BadRequest, Forbidden, TetherError, Unavailable
from supervision.root import stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import DynamicOptions, Restart, SupervisorOptions
from tests.support.cluster_nodes import Nodes, cluster_of, grown
from tests.support.runtime_node import Node, alive, wait_for
from tests.support.supervised_children import Stub, StubOptions

PATIENCE_S = 60.0
PERIOD = "0:01"  # minutes and seconds between registrations, instead of Thespian's minutes
GPU = {"gpu_class": "a100", "vram_gb": 80}
NEEDS = {"gpu_class": "a100", "vram_gb": 40}


@contextlib.contextmanager
def region() -> Iterator[Nodes]:
    """n1 leads, n2 would be next; both n2 and n3 have what is needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVENTION_REREGISTRATION_PERIOD", PERIOD)
        patch.setenv("CONVENTION_RESTART_PERIOD", PERIOD)
        with cluster_of({"n1": {}, "n2": GPU, "n3": GPU}, leaders=("n1", "n2")) as made:
            yield made


async def shown(nodes: Nodes, node: str) -> ConventionShown:
    async with nodes.endpoint(node) as endpoint:
        answer = await endpoint.ask(nodes.admin(node), ShowConvention(), timeout=30)
    assert isinstance(answer, ConventionShown)
    return answer


async def convention(
    nodes: Nodes, node: str, leader: str, members: str = "", *, gone: str = ""
) -> None:
    """Waits until the node sees this leader, these members at least, and not that one."""
    seen = ConventionShown()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (
                seen.leader != leader
                or not set(members.split()) <= set(seen.members)
                or gone in seen.members
            ):
                with contextlib.suppress(TetherError):
                    seen = await shown(nodes, node)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{node} sees {seen}") from None


async def until(
    endpoint: Endpoint, root: Address, condition: Callable[[dict[str, TreeNode]], Any]
) -> dict[str, TreeNode]:
    """The first tree that fulfils `condition`."""
    async with asyncio.timeout(PATIENCE_S):
        async for tree in endpoint.stream(root, WatchTree(), credit=2):
            nodes = {node.path: node for node in tree.nodes}
            if condition(nodes):
                return nodes
    raise AssertionError("the stream of trees ended")


def runs(path: str, *, but: str = "") -> Callable[[dict[str, TreeNode]], bool]:
    def condition(nodes: dict[str, TreeNode]) -> bool:
        node = nodes.get(path)
        return node is not None and node.state is ChildStatus.RUNNING and node.address != but

    return condition


@contextlib.asynccontextmanager
async def placed(
    nodes: Nodes, endpoint: Endpoint, **options: Any
) -> AsyncIterator[tuple[Address, Address]]:
    """A root at n1 whose child must run elsewhere; and that child."""
    child = Stub.spec(
        StubOptions(**options), id="far", requires=NEEDS, shutdown=1.0,
        backoff=Backoff(initial_s=0.5, max_s=2.0),
    )  # fmt: skip
    root = await grown(endpoint, SupervisorOptions(children=(child,), intensity=50))
    try:
        tree = await until(endpoint, root, runs("far"))
        yield root, Address.parse(tree["far"].address)
    finally:
        if alive(root.pid):
            await stop_tree(endpoint, root)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with region() as made:
        yield made


async def settled(nodes: Nodes) -> None:
    """Waits until all three are of one convention."""
    await convention(nodes, "n1", "n1", "n2 n3")
    await convention(nodes, "n3", "n1", "n1")


async def test_a_child_runs_where_its_needs_are_met(nodes: Nodes) -> None:
    await settled(nodes)
    async with nodes.endpoint("n1") as here, placed(nodes, here) as (root, far):
        assert far.node in ("n2", "n3")
        # Its parent, for the system, is the Admin there; it finds its way to our tree by itself.
        assert psutil.Process(far.pid).ppid() == nodes.nodes[far.node].admin_pid
        assert (await here.ask(far, Readiness(), 30)).models == ("far",)
        # Its end is seen across nodes, and it is placed again.
        os.kill(far.pid, signal.SIGKILL)
        tree = await until(here, root, runs("far", but=str(far)))
        assert tree["far"].restarts == 1
        assert "vanished" in tree["far"].last_exit
    await asyncio.to_thread(wait_for, lambda: not alive(Address.parse(tree["far"].address).pid), 30)


async def test_a_child_that_does_not_stop_is_killed_at_its_node(nodes: Nodes) -> None:
    await settled(nodes)
    async with nodes.endpoint("n1") as here, placed(nodes, here, deaf=True) as (_, far):
        assert alive(far.pid)
    await asyncio.to_thread(wait_for, lambda: not alive(far.pid), 30)


async def test_only_the_node_that_placed_a_process_may_have_it_killed(nodes: Nodes) -> None:
    await settled(nodes)
    async with nodes.endpoint("n1") as here, placed(nodes, here) as (_, far):
        there = nodes.admin(far.node)
        with pytest.raises(BadRequest, match="no actor"):
            await here.ask(there, KillPlaced(pid=nodes.nodes[far.node].admin_pid), 30)
        other = "n2" if far.node == "n3" else "n3"
        async with nodes.endpoint(other) as stranger:
            with pytest.raises(Forbidden, match=other):
                await stranger.ask(there, KillPlaced(pid=far.pid), 30)
        assert (await here.ask(far, Readiness(), 30)).models == ("far",)


async def test_a_child_ends_with_its_supervisor_at_another_node(nodes: Nodes) -> None:
    await settled(nodes)
    async with nodes.endpoint("n1") as here, placed(nodes, here) as (root, far):
        os.kill(root.pid, signal.SIGKILL)
        await asyncio.to_thread(wait_for, lambda: not alive(far.pid), 30)


async def test_a_child_that_hangs_when_it_loses_its_supervisor_is_killed(nodes: Nodes) -> None:
    await settled(nodes)
    async with nodes.endpoint("n1") as here, placed(nodes, here) as (root, far):
        os.kill(far.pid, signal.SIGSTOP)
        os.kill(root.pid, signal.SIGKILL)
        await asyncio.to_thread(wait_for, lambda: not alive(far.pid), 60)


async def test_what_no_node_has_is_said(nodes: Nodes) -> None:
    await settled(nodes)
    child = Stub.spec(
        StubOptions(), id="far", requires={"gpu_class": "h100"}, restart=Restart.TEMPORARY
    )
    workers = DynamicSupervisor.spec(DynamicOptions(), id="workers")
    async with nodes.endpoint("n1") as here:
        root = await grown(here, SupervisorOptions(children=(workers,)))
        address = (await until(here, root, runs("workers")))["workers"].address
        with pytest.raises(Unavailable, match="gpu_class h100"):
            await here.ask(address, AddChild(spec=msgspec.msgpack.encode(child)), 60)
        await stop_tree(here, root)


def kill_node(node: Node) -> None:
    """All its processes at once, as a power cut would."""
    for process in [psutil.Process(node.admin_pid), *node.children()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not alive(node.admin_pid), 30)


async def test_a_node_that_is_lost_is_left_for_another(nodes: Nodes) -> None:
    """The last two tests leave fewer and fewer nodes."""
    await settled(nodes)
    async with nodes.endpoint("n1") as here, placed(nodes, here) as (root, far):
        await asyncio.to_thread(kill_node, nodes.nodes[far.node])
        tree = await until(here, root, runs("far", but=str(far)))
        left = Address.parse(tree["far"].address)
        assert {left.node, far.node} == {"n2", "n3"}
        await convention(nodes, "n1", "n1", left.node, gone=far.node)


async def test_the_next_leader_takes_over_and_gives_way_again() -> None:
    with contextlib.ExitStack() as stack:
        nodes = await asyncio.to_thread(stack.enter_context, region())
        await settled(nodes)
        await asyncio.to_thread(kill_node, nodes.nodes["n1"])
        await convention(nodes, "n2", "n2", "n3", gone="n1")
        await convention(nodes, "n3", "n2", "n2", gone="n1")
        # It comes back, and leads again.
        back = await asyncio.to_thread(nodes.start, stack, "n1")
        assert back.admin_pid
        await convention(nodes, "n1", "n1", "n2 n3")
        await convention(nodes, "n2", "n1", "n1 n3")
        await asyncio.to_thread(stack.close)
