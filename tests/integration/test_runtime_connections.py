"""Hubs on one loop, over real sockets: strangers, broken frames, slow and lost peers."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from supervision.errors import Overloaded, PeerLost, ProtocolError
from supervision.runtime import Address
from supervision.runtime.codec import encode
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import Dispatch, reply
from supervision.runtime.exchanges import refuse
from supervision.runtime.handlers import handlers_of, on
from supervision.runtime.peer import MAX_QUEUED, Peer
from supervision.runtime.sockets import Listener, fresh_name
from supervision.runtime.system_road import SystemRoad
from supervision.runtime.wire import (
    ASK,
    CREDIT,
    ERROR,
    HEADER,
    HELLO,
    OPEN,
    PROTOCOL_VERSION,
    SYSTEM,
    TELL,
    U32,
    Framer,
    Greeting,
    frame,
    greet,
)
from tests.support.runtime_actors import RtCount, RtPing, RtPong, RtUnanswered
from tests.support.waiting import NEVER_S, PATIENCE_S, until


@pytest_asyncio.fixture
async def hubs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Connections]]:
    """Two hubs of one node; the first answers every ask with the number it was asked with."""
    monkeypatch.setattr("supervision.runtime.connection.GREETING_TIMEOUT", NEVER_S)
    monkeypatch.setattr("supervision.runtime.connections.DIAL_TIMEOUT", NEVER_S)
    made = []
    for _ in range(2):
        hub = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
        await hub.start()
        made.append(hub)
    made[0].on_request = answer
    yield made
    for hub in made:
        hub.close()
    await asyncio.sleep(0)
    assert not list((folder / "n1").iterdir())


def answer(peer: Peer, kind: int, number: int, payload: bytes) -> None:
    if kind == ASK:
        reply(peer, number, RtPong(number=number))


class Raw:
    """A bare connection to a hub."""

    def __init__(
        self, hub: Connections, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ):
        self.hub, self.reader, self.writer = hub, reader, writer
        self.framer = Framer()

    @classmethod
    async def to(cls, hub: Connections, *frames: bytes) -> Raw:
        path = f"{hub.run_dir}/{hub.address.node}/{hub.address.name}"
        raw = cls(hub, *await asyncio.open_unix_connection(path))
        for one in frames:
            raw.writer.write(one)
        return raw

    async def frames(self, count: int) -> list[tuple[int, int, bytes]]:
        got: list[tuple[int, int, bytes]] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < count:
                data = await self.reader.read(65536)
                assert data, "the connection was closed"
                got += self.framer.feed(data)
        return got

    async def closed(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
        return True

    def close(self) -> None:
        self.writer.close()


class Outcomes:
    """What became of system messages."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.more = asyncio.Event()

    def __call__(self, outcome: object) -> None:
        self.seen.append(outcome)
        self.more.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.seen) < count:
                self.more.clear()
                await self.more.wait()


def hello(name: str = "", *, node: str = "n1", version: int = PROTOCOL_VERSION) -> bytes:
    address = f"{node}/{name or f'{os.getpid()}-raw'}/0"
    return greet(Greeting(version, "n1", address, 1 << 20, 1))


async def works(hubs: list[Connections]) -> None:
    assert isinstance(await hubs[1].ask(hubs[0].address, RtPing(), PATIENCE_S), RtPong)


async def test_the_run_directory_is_private(hubs: list[Connections], folder: Path) -> None:
    assert stat.S_IMODE((folder / "n1").stat().st_mode) == 0o700


async def test_an_open_folder_and_a_foreign_one_are_refused_and_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "n1").mkdir(mode=0o777)
    (folder / "n1").chmod(0o777)
    with pytest.raises(PermissionError, match="open to other users"):
        Listener(str(folder / "n1" / "x"))
    assert stat.S_IMODE((folder / "n1").stat().st_mode) == 0o777
    (folder / "n1").rmdir()
    listener = Listener(str(folder / "n1" / "x"))
    assert stat.S_IMODE((folder / "n1").stat().st_mode) == 0o700
    with pytest.raises(OSError, match="another process listens"):
        Listener(str(folder / "n1" / "x"))
    listener.withdraw()
    listener.socket.close()
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    with pytest.raises(PermissionError, match="belongs to user"):
        Listener(str(folder / "n1" / "y"), foreign=False)


async def test_a_closed_hub_reaches_nobody(hubs: list[Connections]) -> None:
    hubs[1].close()
    with pytest.raises(PeerLost, match="closed itself"):
        await hubs[1].ask(hubs[0].address, RtPing(), PATIENCE_S)
    gone = asyncio.Event()
    hubs[1].watch(hubs[0].address, gone.set)
    await asyncio.wait_for(gone.wait(), PATIENCE_S)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(64),
        frame(ASK, 1, b"x"),
        frame(HELLO, 0, b"\xc1"),
        HEADER.pack(1 << 30, HELLO, 0),
        hello(version=99),
        hello(node="n2"),
        hello("no slashes/ever"),
        hello("1-somebody"),  # another process
    ],
)
async def test_strangers_are_shown_out_and_nobody_else_notices(
    hubs: list[Connections], first: bytes
) -> None:
    await works(hubs)
    raw = await Raw.to(hubs[0], first)
    assert await raw.closed()
    raw.close()
    await works(hubs)


async def test_silence_instead_of_a_greeting_is_ended(
    hubs: list[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.connection.GREETING_TIMEOUT", 0.05)
    raw = await Raw.to(hubs[0])
    assert await raw.closed()
    raw.close()


async def test_another_users_process_is_not_admitted(hubs: list[Connections]) -> None:
    hubs[0]._uids = frozenset({os.geteuid() + 1})
    with pytest.raises(PeerLost):
        await hubs[1].ask(hubs[0].address, RtPing(), PATIENCE_S)
    raw = await Raw.to(hubs[0], hello())
    assert await raw.closed()
    raw.close()


async def test_a_malformed_contract_is_answered_and_the_connection_stays(folder: Path) -> None:
    hub = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
    await hub.start()
    Dispatch(hub, {}, 1, "test").begin()
    raw = await Raw.to(
        hub,
        hello(),
        frame(ASK, 1, b"\xc1"),
        frame(ASK, 2, b""),
        frame(TELL, 0, b"\xc1"),
        frame(200, 3, b"a kind of a later release"),
        frame(ASK, 4, b"\x91\xacRtUnanswered"),
    )
    got = await raw.frames(4)
    assert got[0][0] == HELLO
    assert [(kind, number) for kind, number, _ in got[1:]] == [(ERROR, 1), (ERROR, 2), (ERROR, 4)]
    assert all(b"protocol_error" in payload for _, _, payload in got[1:])
    raw.close()
    hub.close()


async def test_a_frame_too_long_closes_only_its_connection(hubs: list[Connections]) -> None:
    raw = await Raw.to(hubs[0], hello(), HEADER.pack((16 << 20) + 1, ASK, 1))
    assert await raw.closed()
    raw.close()
    await works(hubs)


async def test_code_on_the_system_road_is_dropped(hubs: list[Connections], folder: Path) -> None:
    road = SystemRoad(hubs[0].address)

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(folder / "owned"),))

    refused = []

    def arrived(peer: Peer, payload: bytes) -> None:
        try:
            road.read(peer.address, payload)
        except ProtocolError as error:
            refused.append(error)

    hubs[0].on_system = arrived
    raw = await Raw.to(hubs[0], hello(), frame(SYSTEM, 1, pickle.dumps(Evil())))
    await raw.frames(2)  # the greeting, and the acknowledgement: it isn't sent again
    assert len(refused) == 1
    assert not (folder / "owned").exists()
    raw.close()
    await works(hubs)


async def test_nobody_answers_for_another(hubs: list[Connections]) -> None:
    hubs[0].on_request = lambda *_: None  # lets the ask wait
    asked = asyncio.create_task(hubs[1].ask(hubs[0].address, RtPing(), PATIENCE_S))
    await until(lambda: list(hubs[1]._asks))
    (number,) = hubs[1]._asks
    raw = await Raw.to(
        hubs[1], hello(), frame(ERROR, number, b""), frame(5, number, b""), frame(ASK, 1, b"x")
    )
    await raw.frames(2)  # the greeting, and a word on the last of them: so all were read
    await asyncio.sleep(0)
    assert not asked.done()
    refuse(hubs[0].peer(hubs[1].address), number, Overloaded("its own answer"))
    with pytest.raises(Overloaded):
        await asked
    raw.close()


async def test_an_answer_that_cannot_be_read_fails_its_ask(hubs: list[Connections]) -> None:
    hubs[0].on_request = lambda peer, kind, number, _: peer.send(frame(5, number, b"\xc1"))
    with pytest.raises(ProtocolError):
        await hubs[1].ask(hubs[0].address, RtPing(), PATIENCE_S)
    assert not hubs[1]._asks


async def test_a_peer_that_does_not_read_bounds_what_waits_for_it(hubs: list[Connections]) -> None:
    deaf = await Raw.to(hubs[0], hello())
    await deaf.frames(1)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    address = Address("n1", f"{os.getpid()}-raw")
    item = RtPong(number=1, payload="x" * 65536)

    async def flood() -> None:
        for _ in range(4 * MAX_QUEUED // 65536):
            hubs[0].tell(address, item)
            await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="too slowly"):
        await flood()
    assert hubs[0].peer(address).queued < 2 * MAX_QUEUED
    await works(hubs)
    deaf.close()


async def test_a_peer_that_asks_and_never_reads_is_cut_off(
    hubs: list[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.connection.MAX_BACKLOG", 1 << 20)
    large = RtPong(number=1, payload="x" * 65536)
    hubs[0].on_request = lambda peer, kind, number, _: reply(peer, number, large)
    deaf = await Raw.to(hubs[0], hello())
    await deaf.frames(1)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    gone = asyncio.Event()
    hubs[0].watch(Address("n1", f"{os.getpid()}-raw"), gone.set)
    for _ in range(100):
        deaf.writer.write(frame(ASK, 1, b"x"))
        await asyncio.sleep(0.002)
    await asyncio.wait_for(gone.wait(), PATIENCE_S)
    deaf.close()
    assert isinstance(await hubs[1].ask(hubs[0].address, RtPing(), PATIENCE_S), RtPong)


async def test_a_full_backlog_is_waited_for(folder: Path, hubs: list[Connections]) -> None:
    address = Address("n1", f"{os.getpid()}-late")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "n1" / address.name))
    listener.listen(0)
    fillers = []
    while True:
        filler = socket.socket(socket.AF_UNIX)
        filler.setblocking(False)
        fillers.append(filler)
        try:
            filler.connect(str(folder / "n1" / address.name))
        except BlockingIOError:
            break
    asked = asyncio.create_task(hubs[1].ask(address, RtPing(), PATIENCE_S))
    await asyncio.sleep(0.05)  # it must not be refused meanwhile, which has no event
    assert not asked.done()
    for filler in fillers:
        filler.close()
    accepted = []
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    while True:  # the fillers' connections come first, dead
        connection, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE_S)
        accepted.append(connection)
        data = await asyncio.wait_for(loop.sock_recv(connection, 65536), PATIENCE_S)
        if data:
            break
    assert [kind for kind, _, _ in Framer().feed(data)] == [HELLO, ASK]
    for connection in accepted:
        connection.close()
    with pytest.raises(PeerLost):
        await asked
    listener.close()
    (folder / "n1" / address.name).unlink()


async def test_a_listener_that_never_accepts_is_lost_in_bounded_time(
    folder: Path, hubs: list[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.connections.DIAL_TIMEOUT", 0.1)
    address = Address("n1", f"{os.getpid()}-full")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "n1" / address.name))
        listener.listen(0)
        fillers = []
        while True:
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            try:
                filler.connect(str(folder / "n1" / address.name))
            except BlockingIOError:
                break
        with pytest.raises(PeerLost):
            await hubs[1].ask(address, RtPing(), PATIENCE_S)
        for filler in fillers:
            filler.close()
    (folder / "n1" / address.name).unlink()


async def test_system_messages_survive_a_broken_connection_and_come_once(
    hubs: list[Connections],
) -> None:
    arrived: list[bytes] = []
    hubs[0].on_system = lambda _peer, payload: arrived.append(payload)
    outcomes = Outcomes()
    hubs[1].system(hubs[0].address, b"one", outcomes)
    await outcomes.reach(1)
    # Breaks after the message was written and before it can be acknowledged.
    hubs[1].system(hubs[0].address, b"two", outcomes)
    peer = hubs[1].peer(hubs[0].address)
    peer.flush()
    assert peer.connection is not None
    peer.connection.transport.abort()
    await outcomes.reach(2)
    assert outcomes.seen == [None, None]
    assert arrived == [b"one", b"two"]


async def test_system_messages_to_nobody_are_said_to_be_lost(hubs: list[Connections]) -> None:
    outcomes = Outcomes()
    hubs[1].system(Address("n1", "1-nobody"), b"x", outcomes)
    hubs[1].system(hubs[0].address, b"y", outcomes)
    await outcomes.reach(2)
    assert sorted(map(str, outcomes.seen)) == ["None", "n1/1-nobody/0 is gone"]


async def test_a_new_process_at_an_old_address_is_heard(
    folder: Path, hubs: list[Connections]
) -> None:
    # An Admin that was killed and started again counts its messages anew.
    arrived: list[bytes] = []
    hubs[0].on_system = lambda _peer, payload: arrived.append(payload)
    for word in (b"first", b"second"):
        hub = Connections(asyncio.get_running_loop(), str(folder), Address.admin("n1", 1900))
        await hub.start()
        done = asyncio.Event()
        hub.system(hubs[0].address, word, lambda _, done=done: done.set())  # type: ignore[misc]
        await asyncio.wait_for(done.wait(), PATIENCE_S)
        hub.close()
        await until(lambda: not hubs[0].connections)
    assert arrived == [b"first", b"second"]


async def test_peers_that_are_gone_are_forgotten(folder: Path, hubs: list[Connections]) -> None:
    for _ in range(5):
        hub = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
        await hub.start()
        hub.on_request = answer
        assert (await hubs[1].ask(hub.address, RtPing(), PATIENCE_S)).number > 0
        hub.close()
    with pytest.raises(PeerLost):
        await hubs[1].ask(Address("n1", "1-nobody"), RtUnanswered(), PATIENCE_S)
    await until(lambda: not list(hubs[1].peers()) and not hubs[1].connections)


async def test_many_may_connect_before_the_loop_turns(hubs: list[Connections]) -> None:
    # asyncio would listen with a backlog of 100; a node that starts has more callers.
    path = f"{hubs[0].run_dir}/n1/{hubs[0].address.name}"
    callers = [socket.socket(socket.AF_UNIX) for _ in range(300)]
    for caller in callers:
        caller.setblocking(False)
        caller.connect(path)
    for caller in callers:
        caller.close()
    await works(hubs)


class _Streams:
    """It has a stream that does not end, and a message that it fails on."""

    @on(RtCount)
    async def count(self, msg: RtCount, sender: Address) -> AsyncIterator[RtPong]:
        while True:
            yield RtPong(number=0)

    @on(RtPing)
    async def fail(self, msg: RtPing, sender: Address) -> None:
        raise KeyError(msg.number)


async def test_credit_that_cannot_be_read_ends_its_stream_alone(folder: Path) -> None:
    hub = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
    await hub.start()
    Dispatch(hub, handlers_of(_Streams()), 8, "test").begin()
    opened = U32.pack(1) + encode(RtCount(items=0))
    with structlog.testing.capture_logs() as lines:
        raw = await Raw.to(
            hub,
            hello(),
            frame(OPEN, 1, b""),
            frame(OPEN, 2, b"\0\0\1"),
            frame(OPEN, 3, opened),
            frame(OPEN, 4, opened),
            frame(CREDIT, 3, b"\0\1"),
            frame(CREDIT, 4, U32.pack(1)),
        )
        got = await raw.frames(6)
        # `raw.frames` waits for the last of them; another error of 3 may come, which nobody awaits
        of = {n: [(kind, payload) for kind, at, payload in got if at == n] for n in range(1, 5)}
    assert [line for line in lines if line["log_level"] == "error"] == []
    for number, told in ((1, b"0 bytes"), (2, b"3 bytes"), (3, b"2 bytes")):
        ((_, payload),) = [one for one in of[number] if one[0] == ERROR][:1]
        assert b"protocol_error" in payload and told in payload
    assert not [one for one in of[4] if one[0] == ERROR]
    raw.close()
    hub.close()


async def test_who_comes_again_and_again_fills_no_log(folder: Path) -> None:
    """With no greeting that counts, of one release after the other, or what can't be taken."""
    hub = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))

    def broken(peer: Peer, payload: bytes) -> None:
        raise ValueError(payload)

    hub.on_system = broken
    await hub.start()
    with structlog.testing.capture_logs() as lines:
        for number in range(20):
            assert await (await Raw.to(hub, frame(ASK, 1, b"no greeting"))).closed()
            assert await (await Raw.to(hub, hello(version=100 + number))).closed()
        raw = await Raw.to(hub, hello())
        for number in range(20):
            raw.writer.write(frame(SYSTEM, number + 1, b"x"))
        raw.writer.write(frame(ASK, 9, b""))
        await raw.frames(2)
    events = [line["event"] for line in lines]
    for event in (
        "closed a connection", "refused a peer of another release", "a frame could not be taken",
    ):  # fmt: skip
        assert events.count(event) <= 1, event
    raw.close()
    hub.close()


async def test_what_is_told_in_vain_fills_no_log(folder: Path) -> None:
    """By a process of the own node as by others: of each kind a line, and how many there were."""
    hub = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
    await hub.start()
    Dispatch(hub, handlers_of(_Streams()), 4096, "test").begin()
    floods = (b"\xc1", encode(RtUnanswered()), encode(RtCount(items=1)), encode(RtPing(number=1)))
    with structlog.testing.capture_logs() as lines:
        raw = await Raw.to(hub, hello())
        for payload in floods:
            for _ in range(300):
                raw.writer.write(frame(TELL, 0, payload))
        raw.writer.write(frame(ASK, 9, b""))
        got = await raw.frames(2)
        assert got[-1][:2] == (ERROR, 9)
        await asyncio.sleep(0)  # what was told last has failed as well
    told = [line["event"] for line in lines]
    assert 1 <= told.count("a message was dropped") <= 3
    assert told.count("a handler failed") == 1
    raw.close()
    hub.close()
