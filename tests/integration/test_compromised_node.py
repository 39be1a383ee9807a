"""A node that was taken over: what its certificate, of a worker, lets it do to another node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from thespian.system.utilis import AssocList

from actors.contracts import ListModels, Outcome, Reserve, Settle, Usage
from actors.contracts.operating import KeepBreakers, SetBreaker
from actors.core.node_roles import CONTROL, WORKER
from actors.reservation.reservation import Reservation
from actors.scheduler.scheduler import Scheduler
from actors.stores.ledger import Ledger
from supervision.contracts import (
    ChildChanged,
    ChildKind,
    ChildStatus,
    Contract,
    ExitNotice,
    ExitReason,
    FindActor,
    ShowTree,
    StartChild,
    StopChild,
    Tree,
    TreeNode,
    WatchTree,
)
from supervision.errors import Forbidden, Overloaded
from supervision.lineage import ORPHAN_S
from supervision.nodes import tree_of_node
from supervision.root import stop_tree
from supervision.runtime import Address, Endpoint
from supervision.runtime.codec import decode
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import MAX_HELD, Dispatch, reply
from supervision.runtime.handlers import handlers_of, on
from supervision.runtime.node_transport import NodeTransport
from supervision.runtime.options import NodeOptions
from supervision.runtime.peer import Peer
from supervision.runtime.placements import Placements
from supervision.runtime.routes import ListenAddress, Routes
from supervision.runtime.sockets import fresh_name
from supervision.runtime.wire import ASK
from supervision.security.audience import NODE
from supervision.security.identity import Identity
from supervision.spec import SupervisorOptions
from tests.support.cluster_nodes import HOST, Nodes, cluster_of, grown
from tests.support.messages import reserve
from tests.support.samples import sample
from tests.support.supervised_children import Liar, Stub, StubOptions
from tests.support.tls_hubs import cluster, pings
from tests.support.waiting import PATIENCE_S, until

KEY = "tether-a-client's-key"
TREE = SupervisorOptions(children=(Stub.spec(StubOptions()), Liar.spec(StubOptions())))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster_of({"n1": {}}) as made:
        made.authority.issue("n2", roles=(WORKER,))
        yield made


class Thief:
    """A process with the certificate of n2, which says what it likes and hears what it is told."""

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        border = NodeTransport(
            Identity(nodes.authority.folder_of("n2"), "n2"),
            Routes({"n1": nodes.routes["n1"]}),
            ListenAddress(HOST),
        )
        loop = asyncio.get_running_loop()
        address = Address("n2", fresh_name(), border.port)
        self.hub = Connections(loop, str(folder / "r"), address, border=border)
        self.hub.on_request = self._hears
        self.heard: list[Contract] = []

    def _hears(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        if kind == ASK:
            self.heard.append(decode(payload))
            reply(peer, number, None)

    async def ask(self, address: str | Address, contract: Contract) -> object:
        where = Address.parse(address) if isinstance(address, str) else address
        return await self.hub.ask(where, contract, PATIENCE_S)


class Scene:
    """The tree of n1, as its own processes see it, and a thief who has found it."""

    def __init__(self, here: Endpoint, root: Address, thief: Thief) -> None:
        self.here, self.root, self.thief = here, root, thief

    async def tree(self) -> Tree:
        found: Tree = await self.here.ask(self.root, ShowTree(), PATIENCE_S)
        return found

    async def changed(self, node: TreeNode) -> None:
        """The thief has told the root that this has changed, and the root has read it."""
        self.thief.hub.tell(self.root, ChildChanged(node=node))
        await self.thief.ask(self.root, ShowTree())


@pytest_asyncio.fixture
async def scene(nodes: Nodes, folder: Path) -> AsyncIterator[Scene]:
    async with nodes.endpoint("n1") as here:
        root = await grown(here, TREE)
        here.route("n2", HOST)
        thief = Thief(nodes, folder)
        await thief.hub.start()
        try:
            found = await thief.ask(nodes.admin("n1"), FindActor(name="root"))
            assert getattr(found, "address", "") == str(root)
            yield Scene(here, root, thief)
        finally:
            thief.hub.close()
            await stop_tree(here, root)
            async with asyncio.timeout(PATIENCE_S):  # until the name is free again
                while (await here.ask(nodes.admin("n1"), FindActor(name="root"))).address:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


def line(path: str, address: str = "", pid: int = 0) -> TreeNode:
    state = ChildStatus.RUNNING if pid else ChildStatus.STOPPED
    return TreeNode(path=path, kind=ChildKind.WORKER, state=state, address=address, pid=pid)


async def test_nobody_takes_the_place_of_another_nodes_process(scene: Scene) -> None:
    thief = scene.thief
    before = (await scene.tree()).address("stub")
    await scene.changed(line("stub", str(thief.hub.address), 1))
    found = (await scene.tree()).address("stub")
    assert found is not None
    await scene.here.ask(found, ListModels(credential=KEY), PATIENCE_S)
    assert not thief.heard, "it was sent a client's key"
    assert found == before


async def test_no_line_of_a_tree_has_a_process_killed(scene: Scene) -> None:
    innocent = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        await scene.changed(line("other/child", "", innocent.pid))
        await scene.changed(line("other"))
        # It shows that something does not happen, so it can only wait.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(innocent.wait(), ORPHAN_S + 1.0)
    finally:
        if innocent.returncode is None:
            innocent.kill()
        await innocent.wait()


async def test_nobody_stops_another_node(scene: Scene) -> None:
    stub = (await scene.tree()).address("stub")
    for address in (stub, scene.root):
        with pytest.raises(Forbidden, match=r"node n2 \(worker\) may not say StopChild to .*"):
            await scene.thief.ask(address, StopChild(deadline_s=5.0))  # type: ignore[arg-type]
    assert (await scene.tree()).address("stub") == stub


async def test_a_tree_is_still_found(scene: Scene, nodes: Nodes) -> None:
    """What nodes need of each other is for all of them."""
    tree = await tree_of_node(scene.thief.hub, "n1", nodes.ports["n1"], timeout=PATIENCE_S)  # type: ignore[arg-type]
    assert tree.address("stub")


@pytest.mark.parametrize(
    ("actor", "contract"),
    [(Scheduler, SetBreaker), (Reservation, KeepBreakers), (Reservation, Reserve)],
)
async def test_no_worker_changes_what_is_of_control(
    folder: Path, actor: type, contract: type[Contract]
) -> None:
    async with cluster(folder) as blue:
        target, worker = await blue.hub("n1"), await blue.hub("n4", roles=(WORKER,))
        Dispatch(target, handlers_of(object.__new__(actor)), 64, "the actor").begin()
        with pytest.raises(Forbidden, match=f"may not say {contract.__name__} to the actor"):
            await worker.ask(target.address, sample(contract), PATIENCE_S)


async def test_no_worker_settles_the_jobs_of_others(folder: Path, dsn: str) -> None:
    """Whatever ids and tokens have leaked to it."""
    async with cluster(folder) as blue, Ledger(dsn) as ledger:
        target = await blue.hub("n1")
        actor = object.__new__(Reservation)
        actor._ledger, actor.address = ledger, target.address
        Dispatch(target, handlers_of(actor), 64, "the actor").begin()
        given = (await ledger.reserve(reserve(worker_address="n2/w/1"))).assignment
        usage = Usage(prompt_tokens=999_999, completion_tokens=999_999)
        settles = [
            Settle(
                job_id=given.job_id, fencing_token=given.fencing_token, usage=usage,
                outcome=Outcome.COMPLETED, delivered=delivered,
            )
            for delivered in (False, True)
        ]  # fmt: skip
        other, own = [await blue.hub(node, roles=(WORKER,)) for node in ("n4", "n2")]
        for settle in settles:
            assert not (await other.ask(target.address, settle, PATIENCE_S)).first
        assert (await own.ask(target.address, settles[0], PATIENCE_S)).first


class Watched:
    """What anybody may watch, for ever."""

    @on(WatchTree, of=NODE)
    async def tree(self, msg: WatchTree, sender: Address) -> AsyncIterator[Tree]:
        yield Tree(nodes=())
        await asyncio.Event().wait()


async def test_no_node_takes_all_handlers(folder: Path) -> None:
    """By streams that it opens and never ends."""
    async with cluster(folder) as blue:
        target, own = await blue.hub("n1"), await blue.hub("n1")
        Dispatch(target, handlers_of(Watched()), 16, "the actor").begin()
        held = []
        for node, room in (("n4", 8), ("n2", 4), ("n3", 0)):
            hub = await blue.hub(node, roles=(WORKER,))
            for number in range(10):
                stream = hub.stream(target.address, WatchTree(), 1)
                held.append(stream)
                if number < room:
                    assert isinstance(await anext(stream), Tree)
                    continue
                with pytest.raises(Overloaded, match=r"the actor works on \d+ requests already"):
                    await anext(stream)
        for _ in range(4):
            held.append(own.stream(target.address, WatchTree(), 1))
            assert isinstance(await anext(held[-1]), Tree)
        for stream in held:
            stream.close()
        await until(lambda: not any(peer.serving for peer in target.peers()))
        again = blue.hubs[2].stream(target.address, WatchTree(), 1)
        assert isinstance(await anext(again), Tree), "what has ended leaves its place"
        again.close()


async def test_no_node_fills_a_mailbox(folder: Path) -> None:
    """Of an actor that starts, or is suspended."""
    async with cluster(folder) as blue:
        target, own = await blue.hub("n1"), await blue.hub("n1")
        serving = Dispatch(target, handlers_of(Watched()), 16, "the actor")
        thief = await blue.hub("n4", roles=(WORKER,))
        for _ in range(MAX_HELD):
            thief.tell(target.address, WatchTree())
        with pytest.raises(Overloaded, match="its mailbox is full"):
            await thief.ask(target.address, WatchTree(), PATIENCE_S)
        assert serving.held == MAX_HELD // 2
        own.tell(target.address, WatchTree())
        await until(lambda: serving.held > MAX_HELD // 2)


# ---- what is said of addresses, by whomever


async def test_a_child_is_where_it_was_started_whatever_it_says(scene: Scene) -> None:
    """One that names another process as its own would have that killed."""
    tree = await scene.tree()
    liar = tree.address("liar")
    assert liar is not None
    (row,) = (node for node in tree.nodes if node.path == "liar")
    assert Address.parse(liar).pid == row.pid > 1


async def test_a_notice_counts_from_the_child_that_it_is_of(scene: Scene) -> None:
    lie = ExitNotice(path="stub", generation=1, reason=ExitReason.FAILED, error="not I")
    for who in (scene.here, scene.thief.hub):
        who.tell(scene.root, lie)
    await scene.thief.ask(scene.root, ShowTree())
    (row,) = (node for node in (await scene.tree()).nodes if node.path == "stub")
    assert row.state is ChildStatus.RUNNING


async def test_a_parent_is_of_the_node_that_names_it(scene: Scene) -> None:
    child = await scene.here.create(Stub)
    for parent, root in (("n2/1-x/0", ""), ("", "n2/1-x/0")):
        start = StartChild(path="x", generation=1, parent=parent, root=root)
        with pytest.raises(Forbidden, match="node n1 may not speak for n2/1-x/0"):
            await scene.here.ask(child, start, PATIENCE_S)
    await scene.here.ask(child, StopChild(deadline_s=1.0), PATIENCE_S)


async def test_only_control_has_actors_placed_here(folder: Path) -> None:
    options = NodeOptions.of({"Run Dir": "/r", "Placing Roles": [CONTROL]})
    async with cluster(folder) as blue:
        here = await blue.hub("n1")
        worker, control = await blue.hub("n4", roles=(WORKER,)), await blue.hub("n3")
        placements = Placements(here, AssocList())
        for hub in (worker, control):
            assert "role control" in placements.refusal(hub.address, options), "yet"
            assert await pings(hub, here)
        why = placements.refusal(worker.address, options)
        assert why == "node n4 has not the role control"
        assert placements.refusal(control.address, options) == ""
        assert placements.refusal(here.address, options) == ""
        anything = NodeOptions.of({"Run Dir": "/r"})
        assert placements.refusal(worker.address, anything) == ""
