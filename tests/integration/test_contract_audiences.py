"""Every contract, said by everybody who could: each cell of the table in docs/security.md, on hubs
of real TLS. And what becomes of who says what isn't for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
import uvloop

from actors.core.node_roles import CONTROL, DOOR, WORKER
from actors.scheduler.scheduler import Scheduler
from bench.contracts import DOCS, PEERS, declared
from supervision.contracts import ChildChanged, Contract
from supervision.errors import Forbidden, PeerLost
from supervision.root import Root
from supervision.runtime import metrics
from supervision.runtime.audience_refusals import AUDIT_LINES, COMMAND
from supervision.runtime.codec import encode
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import ASYNC, STREAM, Entry, handlers_of
from supervision.runtime.wire import ASK, frame
from supervision.telemetry import audit
from tests.support.samples import sample
from tests.support.tls_hubs import Cluster, Stranger, cluster, hello, shows
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

NODES = {"n2": DOOR, "n3": CONTROL, "n4": WORKER}


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop that the processes of a node have; its TLS is not asyncio's."""
    return uvloop.EventLoopPolicy()


@pytest_asyncio.fixture
async def blue(folder: Path) -> AsyncIterator[Cluster]:
    async with cluster(folder) as made:
        yield made


class Reached:
    """Handlers as `cls` declares them, which only note that they were reached."""

    def __init__(self, cls: type) -> None:
        self.count = 0
        self.handlers = {
            contract: (self._stub(mode), mode, mask)
            for contract, (_, mode, mask) in handlers_of(object.__new__(cls)).items()
        }

    def _stub(self, mode: int) -> Callable[..., Any]:
        def plain(msg: Contract, sender: object) -> None:
            self.count += 1

        async def later(msg: Contract, sender: object) -> None:
            self.count += 1

        async def items(msg: Contract, sender: object) -> AsyncIterator[Contract]:
            self.count += 1
            return
            yield msg

        return items if mode == STREAM else later if mode == ASYNC else plain


async def says(who: Connections, to: Connections, contract: Contract, entry: Entry) -> bool:
    """Is it answered, and not refused?"""
    try:
        if entry[1] == STREAM:
            async for _ in who.stream(to.address, contract, 1):
                pass
        else:
            await who.ask(to.address, contract, PATIENCE_S)
    except Forbidden as error:
        refused = error.message
    else:
        return True
    assert f"may not say {type(contract).__name__} to the actor" in refused
    assert "it is for processes of its own node" in refused
    return False


def cells() -> dict[tuple[str, str], dict[str, bool]]:
    """The table of the document: by contract and class, whether a column says yes."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in DOCS.read_text().partition("<!-- contracts")[2].splitlines()
        if line.startswith("|")
    ]
    head = rows[0][2:]
    assert head == list(PEERS)
    return {
        (row[0], row[1]): dict(zip(head, (cell == "yes" for cell in row[2:]), strict=True))
        for row in rows[2:]
    }


async def test_every_cell_of_the_table_is_as_it_says(blue: Cluster) -> None:
    table = cells()
    target = await blue.hub("n1")
    target.guardian = "n5"
    peers = {"own node": await blue.hub("n1"), "placed it": await blue.hub("n5", roles=("spare",))}
    for node, role in NODES.items():
        peers[role] = await blue.hub(node, roles=(role,))
    peers["operator"] = await blue.hub("operator:ann", roles=())
    walked = 0
    for cls, those in itertools.groupby(declared(), lambda one: one.by):
        reached = Reached(cls)
        Dispatch(target, reached.handlers, 64, "the actor").begin()
        for one in those:
            expected = table[one.contract.__name__, cls.__name__]
            contract, entry = sample(one.contract), reached.handlers[one.contract]
            for name, hub in peers.items():
                before = reached.count
                answered = await says(hub, target, contract, entry)
                told = reached.count - before
                assert (answered, told) == (expected[name], int(expected[name])), (one, name)
                walked += 1
            before = reached.count
            for tls in (None, shows(None)):
                await _comes_as_a_stranger(target, tls, contract)
            assert reached.count == before, one
            assert not expected["stranger"]
            walked += 1
    assert walked == len(PEERS) * len(table)


async def _comes_as_a_stranger(target: Connections, tls: Any, contract: Contract) -> None:
    try:
        stranger = await Stranger.to(target, tls, hello("n9"), frame(ASK, 1, encode(contract)))
    except OSError:
        return
    await stranger.closed()
    assert stranger.seen == b"" or tls is None


async def test_what_is_told_is_refused_as_well(blue: Cluster) -> None:
    target, worker = await blue.hub("n1"), await blue.hub("n4", roles=(WORKER,))
    reached = Reached(Root)
    serving = Dispatch(target, reached.handlers, 64, "the root")
    before = counted("ChildChanged", "n4")
    lie = sample(ChildChanged)
    worker.tell(target.address, lie)  # while it still starts, when others are held
    await until(lambda: counted("ChildChanged", "n4") == before + 1)
    assert serving.held == 0
    serving.begin()
    worker.tell(target.address, lie)
    await until(lambda: counted("ChildChanged", "n4") == before + 2)
    serving.suspend()
    worker.tell(target.address, lie)
    await until(lambda: counted("ChildChanged", "n4") == before + 3)
    assert reached.count == 0


def counted(contract: str, node: str) -> float:
    return float(metrics.contracts_refused.labels(contract, node)._value.get())


async def test_a_flood_is_counted_whole_and_written_down_once(
    blue: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(audit.HOME, str(tmp_path))
    target, worker = await blue.hub("n1"), await blue.hub("n4", roles=(WORKER,))
    Dispatch(target, Reached(Scheduler).handlers, 64, "the scheduler").begin()
    kinds = [one.contract for one in declared() if one.by is Scheduler]
    before = {kind: counted(kind.__name__, "n4") for kind in kinds}
    with structlog.testing.capture_logs() as lines:
        for _ in range(500):
            for kind in kinds:
                worker.tell(target.address, sample(kind))
        await until(lambda: all(counted(k.__name__, "n4") == before[k] + 500 for k in kinds))
    assert len([line for line in lines if line["event"] == "refused a contract"]) == len(kinds)
    await until(lambda: len(audit.read(tmp_path / audit.NAME)) == len(kinds))
    entries = audit.read(tmp_path / audit.NAME)
    assert {entry.arguments for entry in entries} == {
        (kind.__name__, "the scheduler") for kind in kinds
    }
    assert {(e.command, e.outcome, e.who.certificate, e.node) for e in entries} == {
        (COMMAND, "refused", "n4", "n1")
    }
    assert len(kinds) < AUDIT_LINES


async def test_a_connection_lends_another_no_roles(blue: Cluster) -> None:
    """A node may have certificates with more roles and with fewer, one of which is revoked."""
    target = await blue.hub("n1")
    blue.authority.issue("n4", roles=(CONTROL,))
    more = shows(blue.authority, "n4")
    first = await Stranger.to(target, more, hello("n4"))
    await until(lambda: len(list(target.peers())) == 1)
    (peer,) = target.peers()
    much = peer.audience
    blue.authority.renew("n4", roles=(WORKER,))
    second = await Stranger.to(target, shows(blue.authority, "n4"), hello("n4"))
    await until(lambda: len(peer.claims) == 2)
    assert peer.audience == much & peer.audience != much
    third = await Stranger.to(target, more, hello("n4"))
    await until(lambda: len(peer.claims) == 3)
    little = peer.audience
    for stranger in (first, third):
        stranger.writer.close()
    await until(lambda: len(peer.claims) == 1)
    assert peer.audience & ~much, "it is a worker now"
    assert peer.audience & much == little, "and nothing of what it was"
    second.writer.close()


async def test_who_has_no_roles_says_nothing(blue: Cluster, monkeypatch: Any) -> None:
    target, old = await blue.hub("n1"), await blue.hub("n4")
    monkeypatch.setattr("supervision.security.refusal.roles_in", lambda *_: ())
    Dispatch(target, Reached(Root).handlers, 64, "the root").begin()
    with pytest.raises(PeerLost):
        await old.ask(target.address, sample(ChildChanged), PATIENCE_S)
