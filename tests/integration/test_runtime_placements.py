"""What other nodes have placed here, with hubs and processes that are real."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from thespian.actors import ActorAddress
from thespian.system.messages.admin import PendingActor
from thespian.system.utilis import AssocList

from supervision.contracts import ActorFound
from supervision.runtime import Address
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import reply
from supervision.runtime.peer import Peer
from supervision.runtime.placements import Placements, guardian_of
from supervision.runtime.sockets import fresh_name
from supervision.runtime.wire import ASK
from tests.support.waiting import PATIENCE_S, until

ASKING, OURS = Address.admin("n1", 1900), Address.admin("n2", 1901)
OUTSIDE = Address("n1", fresh_name())  # who asked, and is gone


async def admin_at(address: Address, run_dir: Path) -> Connections:
    """What an Admin is for another one: it answers."""

    def answer(peer: Peer, kind: int, number: int, _: bytes) -> None:
        if kind == ASK:
            reply(peer, number, ActorFound())

    hub = Connections(asyncio.get_running_loop(), str(run_dir), address)
    hub.on_request = answer
    await hub.start()
    return hub


class Scene:
    """n1 has placed a process at n2."""

    def __init__(
        self, asking: Connections, ours: Connections, process: asyncio.subprocess.Process
    ) -> None:
        self.asking, self.ours, self.process = asking, ours, process
        self.child = Address("n2", f"{process.pid}-placed")
        parents = AssocList()
        parents.add(ActorAddress(self.child), ActorAddress(OUTSIDE))
        self.placements = Placements(ours, parents)

    async def nursed(self) -> Peer:
        """Returns when n2 holds on to n1."""
        peer = self.ours.peer(ASKING)
        await until(lambda: peer.incarnation and peer.watchers)
        return peer


@pytest_asyncio.fixture
async def scene(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr("supervision.runtime.placements.ORPHAN_S", 0.05)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    made = Scene(await admin_at(ASKING, folder), await admin_at(OURS, folder), process)
    made.placements.nurse(made.child, ASKING)
    yield made
    made.asking.close()
    made.ours.close()
    if process.returncode is None:
        process.kill()
    await process.wait()


async def killed(process: asyncio.subprocess.Process) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        return await process.wait() == -9


async def test_a_connection_that_breaks_takes_nothing_along(scene: Scene) -> None:
    for _ in range(2):
        peer = await scene.nursed()
        assert peer.connection is not None
        peer.connection.transport.abort()
        await until(lambda peer=peer: scene.ours.peer(ASKING) is not peer)
    await scene.nursed()
    assert scene.process.returncode is None
    scene.asking.close()
    assert await killed(scene.process)


async def test_a_successor_at_the_same_address_has_placed_nothing(
    scene: Scene, folder: Path
) -> None:
    await scene.nursed()
    scene.asking.close()
    scene.asking = await admin_at(ASKING, folder)
    assert await killed(scene.process)


async def test_what_has_ended_is_let_go(scene: Scene) -> None:
    peer = await scene.nursed()
    scene.placements.ended(scene.child)
    scene.placements.ended(scene.child)
    assert not peer.watchers


@pytest.mark.parametrize(
    ("name", "asker", "asked_at", "guardian"),
    [
        (None, None, None, None),
        (None, OUTSIDE, None, OUTSIDE),
        (None, OUTSIDE, ASKING, ASKING),
        (None, OUTSIDE, OURS, OUTSIDE),
        (None, OUTSIDE, Address("n1", fresh_name()), OUTSIDE),
        ("known to all", OUTSIDE, ASKING, None),
    ],
    ids=["here", "by an actor", "from outside", "of a third node", "no Admin", "by name"],
)
def test_who_the_guardian_is(
    name: str | None, asker: Address | None, asked_at: Address | None, guardian: Address | None
) -> None:
    request = PendingActor("m.C", asker and ActorAddress(asker), 1, None, globalName=name)
    if asked_at is not None:
        request.asked_at = ActorAddress(asked_at)
    assert guardian_of(request) == guardian
