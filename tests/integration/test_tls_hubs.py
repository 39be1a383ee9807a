"""Hubs of different nodes over mutual TLS: who is let in, for how long, and at what cost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
import uvloop
from cryptography import x509

from actors.core.node_roles import ROLES
from supervision.errors import PeerLost
from supervision.runtime import Address, connection, metrics, on
from supervision.runtime.closing_frame import ClosingFrame
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import handlers_of
from supervision.runtime.tls import TlsConnection
from supervision.runtime.wire import (
    ASK,
    HEADER,
    HELLO,
    PROTOCOL_VERSION,
    Framer,
    Greeting,
    frame,
    greet,
    read_greeting,
)
from supervision.security.audience import NODE
from supervision.security.authority import Authority
from supervision.security.certificate import (
    certificate_pem,
    key_pem,
    new_certificate,
    new_key,
    read_key,
)
from supervision.security.identity import Identity
from supervision.security.name import NodeName
from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog
from tests.support.runtime_actors import RtCount, RtNothing, RtPing, RtPong
from tests.support.tls_hubs import HOST, Cluster, Stranger, answer, cluster, hello, pings, shows
from tests.support.waiting import NEVER_S, PATIENCE_S, until

# The hook that is to replace the fixture would change the loop of all tests of the folder.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop that the processes of a node have; its TLS is not asyncio's."""
    return uvloop.EventLoopPolicy()


@pytest_asyncio.fixture
async def blue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """A cluster whose hubs end by themselves nothing that takes long."""
    for bound in (
        "connections.DIAL_TIMEOUT",
        "connection.GREETING_TIMEOUT",
        "node_transport.HANDSHAKE_S",
        "tls_rotation.MOVE_S",
        "idle_close.ANSWER_S",
    ):
        monkeypatch.setattr(f"supervision.runtime.{bound}", NEVER_S)
    monkeypatch.setattr("supervision.runtime.node_transport.LOOK_S", 0.05)
    async with cluster(folder) as made:
        yield made


def counted(side: str, result: str) -> float:
    return float(metrics.tls_handshakes.labels(side, result)._value.get())


def closed(reason: str) -> float:
    return float(metrics.tls_closed.labels(reason)._value.get())


def refused(bound: str) -> float:
    return float(bounds.refused.labels(bound)._value.get())


async def caught_up(hub: Connections) -> None:
    """Waits until the hub knows what is in the folder of its identity."""
    assert hub.border is not None
    here = hub.border.identity
    there = Identity(here.folder, here.node)
    there.load()
    await until(
        lambda: (
            (here.current.serial, here.current.revocations)
            == (there.current.serial, there.current.revocations)
        )
    )


class Talker:
    """Handlers as an actor has them."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    @on(RtPing, of=NODE)
    async def ping(self, msg: RtPing, sender: Address) -> RtPong:
        return RtPong(number=msg.number, payload=f"{msg.payload} to {sender.node}")

    @on(RtNothing, of=NODE)
    async def nothing(self, msg: RtNothing, sender: Address) -> None:
        self.told.set()

    @on(RtCount, of=NODE)
    async def count(self, msg: RtCount, sender: Address) -> AsyncIterator[RtPong]:
        for number in range(msg.items):
            yield RtPong(number=number, payload=msg.payload)


def talks(hub: Connections) -> Talker:
    """Lets `hub` answer as an actor would."""
    talker = Talker()
    Dispatch(hub, handlers_of(talker), 64, "talker").begin()
    return talker


# ---- good neighbours


@pytest.mark.parametrize("key", ["ed25519", "p256"])
async def test_ask_tell_and_stream_cross_the_border(blue: Cluster, key: str) -> None:
    one, two = await blue.hub("n1", key=key), await blue.hub("n2", key=key)
    talker = talks(two)
    pong = await one.ask(two.address, RtPing(number=3, payload="hello"), PATIENCE_S)
    assert pong == RtPong(number=3, payload="hello to n1")
    one.tell(two.address, RtNothing())
    await asyncio.wait_for(talker.told.wait(), PATIENCE_S)
    got = [item.number async for item in one.stream(two.address, RtCount(items=500), credit=16)]
    assert got == list(range(500))
    (connection,) = one.connections
    tls = connection.transport.get_extra_info("ssl_object")
    assert tls.version() == "TLSv1.3"
    # Both ways over the one connection, though n2 could dial n1 as well.
    assert await pings(two, one)
    assert len(one.connections) == len(two.connections) == 1


async def test_large_frames_cross_the_border(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    talks(two)
    text = "x" * (8 << 20)
    pong = await one.ask(two.address, RtPing(payload=text), PATIENCE_S)
    assert pong.payload == f"{text} to n1"


async def test_one_that_cannot_be_dialed_is_answered_where_it_came_from(blue: Cluster) -> None:
    one, two = await blue.hub("n1", host=""), await blue.hub("n2")
    assert one.address.port == 0
    assert await pings(one, two)
    assert await pings(two, one)


async def test_a_host_is_learned_from_whoever_came(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n9")
    with pytest.raises(PeerLost):
        await pings(one, two)
    assert await pings(two, one)
    assert one.border is not None
    assert one.border.routes.host("n9") == HOST


async def test_a_host_can_be_told_later(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n9")
    with pytest.raises(PeerLost):
        await pings(one, two)
    one.route("n9", HOST)
    assert await pings(one, two)


async def test_a_lost_peer_is_noticed_at_once(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    two.on_request = lambda *_: None
    gone = asyncio.Event()
    one.watch(two.address, gone.set)
    asked = asyncio.create_task(pings(one, two))
    await until(lambda: two.connections)
    two.close()
    with pytest.raises(PeerLost):
        await asked
    await asyncio.wait_for(gone.wait(), PATIENCE_S)


async def test_a_host_that_falls_silent_is_found_out(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    assert await pings(one, two)
    for hub in (one, two):
        (connection,) = hub.connections
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


async def test_system_messages_survive_a_broken_connection_between_nodes(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    arrived: list[bytes] = []
    two.on_system = lambda _peer, payload: arrived.append(payload)
    outcomes: list[object] = []
    one.system(two.address, b"one", outcomes.append)
    await until(lambda: outcomes)
    one.system(two.address, b"two", outcomes.append)
    peer = one.peer(two.address)
    peer.flush()
    assert peer.connection is not None
    peer.connection.transport.abort()
    await until(lambda: len(outcomes) == 2)
    assert outcomes == [None, None]
    assert arrived == [b"one", b"two"]


async def test_a_release_that_speaks_more_is_understood(blue: Cluster) -> None:
    one = await blue.hub("n1")
    blue.authority.issue("n2", roles=ROLES)
    tls = shows(blue.authority, "n2")
    newer = await Stranger.to(
        one, tls, hello(version=PROTOCOL_VERSION + 1, oldest=PROTOCOL_VERSION), frame(ASK, 1, b"x")
    )
    got = await newer.frames(2)
    assert [kind for kind, _, _ in got] == [HELLO, 5]
    newer.writer.close()
    far = hello(version=PROTOCOL_VERSION + 2, oldest=PROTOCOL_VERSION + 1)
    stranger = await Stranger.to(one, tls, far, frame(ASK, 1, b"x"))
    await stranger.closed()


def wire_refused(node: str) -> float:
    return float(metrics.wire_refused.labels(node)._value.get())


OLD = "node n2 speaks version 1 of the wire, this node version 3; upgrade it"


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had said nothing yet, whatever other tests had it say."""
    monkeypatch.setattr(connection, "heard", BoundedLog(connection.__name__))


@pytest.mark.usefixtures("fresh_log")
async def test_a_node_of_the_release_before_is_refused_and_logged_once(blue: Cluster) -> None:
    """It dials, and sends what it has to say behind its greeting: none of that is read."""
    one = await blue.hub("n1")
    asked: list[int] = []
    one.on_request = lambda _peer, _kind, number, _payload: asked.append(number)
    blue.authority.issue("n2", roles=ROLES)
    tls = shows(blue.authority, "n2")
    before = wire_refused("n2")
    with structlog.testing.capture_logs() as lines:
        for oldest in (1, 0, 1):  # an early one says no oldest
            old = await Stranger.to(one, tls, hello(version=1, oldest=oldest), frame(ASK, 1, b"x"))
            await old.closed()
            kind, _, greeting = Framer().feed(old.seen)[0]
            assert kind == HELLO
            assert read_greeting(greeting).oldest == 3, "by which it refuses us"
        await until(lambda: not one.connections)
    assert [line for line in lines if line["log_level"] == "error"] == [
        {
            "event": "refused a peer of another release",
            "reason": OLD,
            "log_level": "error",
            "module": "supervision.runtime.connection",
        }
    ]
    assert not asked
    assert wire_refused("n2") == before + 3


@pytest.mark.usefixtures("fresh_log")
async def test_who_asks_a_node_of_the_release_before_is_told(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    now = two.greeting
    two.greeting = greet(Greeting(1, "n2", str(two.address), 1 << 20, 1, 1))
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(PeerLost, match=OLD):
                await pings(one, two)
            with pytest.raises(PeerLost, match=OLD):
                [item async for item in one.stream(two.address, RtCount(items=1), credit=1)]
            outcomes: list[object] = []
            one.system(two.address, b"one", outcomes.append)
            await until(lambda outcomes=outcomes: outcomes)  # type: ignore[misc]
            assert OLD in str(outcomes[0])
    assert [line["reason"] for line in lines if line["log_level"] == "error"] == [OLD]
    two.greeting = now
    assert await pings(one, two), "it was upgraded"
    assert len(one.strangers) == 0


# ---- bad certificates


def bad(blue: Cluster, how: str) -> tuple[Authority | None, str]:
    """Who issued the certificate of node n2 that isn't to be believed, and how that is counted."""
    if how == "foreign":
        other = Authority.init(blue.folder / "other", "blue")
        other.issue("n2", roles=ROLES)
        return other, "foreign"
    if how == "cluster":  # signed by our authority's key for another cluster, as two may share one
        name, key = NodeName("red", "n2"), new_key("ed25519")
        signer = blue.authority.folder
        certificate = new_certificate(
            name,
            key,
            authority=x509.load_pem_x509_certificate((signer / "ca.pem").read_bytes()),
            authority_key=read_key((signer / "ca.key").read_bytes()),
            lifetime=timedelta(hours=1),
            now=datetime.now(UTC),
        )
        blue.authority.folder_of("n2").mkdir(parents=True)
        path = blue.authority.folder_of("n2") / "node.pem"
        path.write_bytes(key_pem(key) + certificate_pem(certificate))
        return blue.authority, "foreign"
    if how == "absent":
        return None, "absent"
    if how == "expired":
        past = Authority.open(blue.authority.folder, clock=lambda: time.time() - 7200)
        past.issue("n2", lifetime_s=3600, roles=ROLES)
        return past, "expired"
    blue.authority.issue("n2", roles=ROLES)
    blue.authority.revoke("n2")
    return blue.authority, "revoked"


BAD = ["foreign", "cluster", "absent", "expired", "revoked"]


@pytest.mark.parametrize("how", BAD)
async def test_who_comes_with_a_bad_certificate_hears_nothing(blue: Cluster, how: str) -> None:
    one, good = await blue.hub("n1"), await blue.hub("n3")
    issuer, reason = bad(blue, how)
    await caught_up(one)
    before = counted("in", reason)
    asked: list[bytes] = []
    one.on_request = lambda _peer, _kind, _number, payload: asked.append(payload)
    try:
        stranger = await Stranger.to(one, shows(issuer, "n2"), hello(), frame(ASK, 1, b"x"))
    except OSError:  # in TLS 1.3 it may or may not hear of it in its own handshake
        pass
    else:
        await stranger.closed()
        assert stranger.seen == b""
    await until(lambda: counted("in", reason) == before + 1)
    assert not one.connections
    assert not asked
    one.on_request = answer
    assert await pings(good, one)


@pytest.mark.parametrize("how", BAD)
async def test_nothing_is_said_to_a_listener_with_a_bad_certificate(
    blue: Cluster, how: str
) -> None:
    one = await blue.hub("n1")
    issuer, reason = bad(blue, how)
    await caught_up(one)
    if issuer is None:
        # A server of TLS always has one: one that no authority signed, then.
        issuer, reason = Authority.init(blue.folder / "self", "blue"), "foreign"
        issuer.issue("n2", roles=ROLES)
    heard = b""
    done = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        with contextlib.suppress(OSError):
            heard += await reader.read(65536)
        done.set()
        writer.close()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_alpn_protocols(["tether/1"])
    tls.load_cert_chain(issuer.folder_of("n2") / "node.pem")
    server = await asyncio.start_server(listen, HOST, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    before = counted("out", reason)
    with pytest.raises(PeerLost):
        await one.ask(Address("n2", "1-x", port), RtPing(), PATIENCE_S)
    assert counted("out", reason) == before + 1
    server.close()
    assert heard == b""
    assert not one.connections


# ---- those who say that they are somebody else


async def test_a_greeting_must_name_the_node_of_the_certificate(blue: Cluster) -> None:
    one = await blue.hub("n1")
    blue.authority.issue("n2", roles=ROLES)
    asked: list[bytes] = []
    one.on_request = lambda _peer, _kind, _number, payload: asked.append(payload)
    before = closed("other_node")
    liar = await Stranger.to(
        one, shows(blue.authority, "n2"), hello("n2", says="n3"), frame(ASK, 1, b"x")
    )
    await liar.closed()
    assert closed("other_node") == before + 1
    assert not asked
    assert not list(one.peers())


async def test_a_node_does_not_come_from_outside_to_itself(blue: Cluster) -> None:
    one = await blue.hub("n1")
    before = counted("in", "other_node")
    thief = await Stranger.to(one, shows(blue.authority, "n1"), hello("n1"))
    await thief.closed()
    assert thief.seen == b""
    assert counted("in", "other_node") == before + 1


async def test_another_node_does_not_answer_in_the_place_of_the_one_dialed(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    heard: list[bytes] = []
    two.on_request = lambda _peer, _kind, _number, payload: heard.append(payload)
    before = counted("out", "other_node")
    with pytest.raises(PeerLost):
        await one.ask(Address("n3", two.address.name, two.address.port), RtPing(), PATIENCE_S)
    assert counted("out", "other_node") == before + 1
    assert not heard


async def test_another_node_does_not_come_by_the_unix_socket(blue: Cluster) -> None:
    one = await blue.hub("n1")
    path = f"{one.run_dir}/{one.address.node}/{one.address.name}"
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(hello("n2"))
    await Stranger(reader, writer).closed()
    assert not list(one.peers())


async def test_another_protocol_is_not_spoken(blue: Cluster) -> None:
    one = await blue.hub("n1")
    blue.authority.issue("n2", roles=ROLES)
    web = await Stranger.to(one, shows(blue.authority, "n2", alpn="http/1.1"), hello())
    await web.closed()
    assert web.seen == b""
    old = shows(blue.authority, "n2")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        await Stranger.to(one, old)
    assert not one.connections


# ---- bounds


async def test_a_frame_of_a_gibibyte_is_refused_when_it_is_announced(blue: Cluster) -> None:
    one, three = await blue.hub("n1"), await blue.hub("n3")
    blue.authority.issue("n2", roles=ROLES)
    tls = shows(blue.authority, "n2")
    for frames in ([], [hello()]):
        huge = await Stranger.to(one, tls, *frames, HEADER.pack(1 << 30, ASK, 1), bytes(65536))
        await huge.closed()
    assert await pings(three, one)
    assert not [p for p in one.peers() if p.address.node == "n2"]


async def test_silence_after_the_handshake_is_ended(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.connection.GREETING_TIMEOUT", 0.1)
    one = await blue.hub("n1")
    blue.authority.issue("n2", roles=ROLES)
    silent = await Stranger.to(one, shows(blue.authority, "n2"))
    await silent.closed()
    assert not one.connections


@pytest.mark.parametrize("drip", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_slow_handshakes_are_ended(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    monkeypatch.setattr("supervision.runtime.node_transport.HANDSHAKE_S", 1.0)
    one, two = await blue.hub("n1"), await blue.hub("n2")
    before = counted("in", "timeout")
    slow = [await Stranger.to(one, None) for _ in range(10)]

    async def drips() -> None:
        for byte in drip:
            for stranger in slow:
                stranger.writer.write(bytes([byte]))
            await asyncio.sleep(0.2)

    dripping = asyncio.create_task(drips())
    answered = False
    while not answered:  # while they hold on; its own handshake may be slow, on a slow machine
        with contextlib.suppress(PeerLost):
            answered = await pings(two, one)
    for stranger in slow:
        await stranger.closed()
    await until(lambda: counted("in", "timeout") >= before + 10)
    dripping.cancel()


async def test_a_crowd_of_slow_handshakes_gives_way(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.node_transport.MAX_HANDSHAKES", 8)
    one, two = await blue.hub("n1"), await blue.hub("n2")
    before, crowded = refused("tls_handshakes"), counted("in", "crowded_out")
    crowd = [await Stranger.to(one, None) for _ in range(40)]
    assert await pings(two, one)
    assert refused("tls_handshakes") >= before + 32
    await until(lambda: counted("in", "crowded_out") >= crowded + 32)
    for stranger in crowd[:30]:
        await stranger.closed()
    for stranger in crowd[30:]:
        stranger.writer.close()


async def test_connections_of_one_node_are_bounded(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.node_transport.MAX_PER_NODE", 3)
    one, three = await blue.hub("n1"), await blue.hub("n3")
    blue.authority.issue("n2", roles=ROLES)
    tls = shows(blue.authority, "n2")
    before = refused("node_connections")
    many = [await Stranger.to(one, tls, hello()) for _ in range(3)]
    for stranger in many:
        await stranger.frames(1)
    more = await Stranger.to(one, tls, hello())
    await more.closed()
    assert more.seen == b""
    assert refused("node_connections") == before + 1
    assert counted("in", "crowded") >= 1
    assert await pings(three, one)
    many[0].writer.close()
    await until(lambda: len(one.connections) == 3)
    again = await Stranger.to(one, tls, hello())
    await again.frames(1)


async def test_no_descriptor_is_left_behind(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    assert await pings(two, one)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(5):
        await (await Stranger.to(one, None, b"GET / HTTP/1.1\r\n\r\n")).closed()
        with contextlib.suppress(OSError):
            await (await Stranger.to(one, shows(None), hello())).closed()
    await until(lambda: descriptors() <= before)


def grow_old(monkeypatch: pytest.MonkeyPatch, idle_s: float, *hubs: Connections) -> None:
    """From now on, and at once, connections of `hubs` are left that are silent so long."""
    monkeypatch.setattr("supervision.runtime.idle_close.IDLE_S", idle_s)
    for hub in hubs:
        for each in hub.connections:
            each.leave_at = 0.0  # type: ignore[attr-defined]


async def test_a_connection_that_nobody_uses_is_closed(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = [await blue.hub(node) for node in ("n1", "n2", "n3")]
    lost: list[str] = []
    assert await pings(one, two)
    assert await pings(one, three)
    forget = three.watch(one.address, lambda: lost.append("n1"))  # n1 can't see this
    left = metrics.tls_left._value.get()
    grow_old(monkeypatch, 0.2, one)
    await until(lambda: metrics.tls_left._value.get() == left + 1)
    await until(lambda: not two.connections)
    await asyncio.sleep(0.5)  # what must not happen has no event
    assert len(one.connections) == len(three.connections) == 1
    assert not lost
    assert [p.address for p in one.peers()] == [three.address]
    assert not list(two.peers())
    forget()
    await until(lambda: not one.connections and not three.connections)
    assert await pings(one, two)  # either may begin again
    await until(lambda: not one.connections)
    assert await pings(two, one)
    assert not lost


async def test_two_that_have_dialed_each_other_leave_both_connections(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    await asyncio.gather(pings(one, two), pings(two, one))
    assert len(one.connections) == 2
    grow_old(monkeypatch, 0.2, one, two)
    await until(lambda: not one.connections and not two.connections)
    assert not list(one.peers())
    assert not list(two.peers())


async def test_who_speaks_while_leaving_is_heard(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.node_transport.LOOK_S", 0.005)
    monkeypatch.setattr("supervision.runtime.idle_close.IDLE_S", 0.05)
    one, two = await blue.hub("n1"), await blue.hub("n2")
    for pause in (0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07, 0.08, 0.1) * 3:
        assert await pings(one, two)
        await asyncio.sleep(pause)
        assert all(await asyncio.gather(pings(one, two), pings(two, one)))


async def test_a_release_that_does_not_know_how_to_leave_stays(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervision.runtime.node_transport.LOOK_S", 0.02)
    monkeypatch.setattr("supervision.runtime.idle_close.IDLE_S", 0.1)
    monkeypatch.setattr("supervision.runtime.idle_close.ANSWER_S", 0.2)
    one, two = await blue.hub("n1"), await blue.hub("n2")
    asked = asyncio.Event()
    two.on_link = lambda *_: asked.set()
    assert await pings(one, two)
    (connection,) = one.connections
    await asyncio.wait_for(asked.wait(), PATIENCE_S)
    assert await pings(one, two)
    assert one.connections == {connection}


# ---- certificates that change while connections live


async def test_a_revocation_ends_live_connections(blue: Cluster) -> None:
    one, two, three = [await blue.hub(node) for node in ("n1", "n2", "n3")]
    assert await pings(two, one)
    assert await pings(three, one)
    one.on_request = lambda *_: None
    asked = asyncio.create_task(pings(two, one))
    await asyncio.sleep(0)
    before = closed("revoked")
    blue.authority.revoke("n2")
    with pytest.raises(PeerLost):
        await asked
    assert closed("revoked") > before
    one.on_request = answer
    with pytest.raises(PeerLost):  # and it doesn't come back
        await pings(two, one)
    assert await pings(three, one)
    assert [p.address.node for p in one.peers()] == ["n3"]


async def test_a_certificate_is_renewed_without_a_restart(blue: Cluster) -> None:
    one, two, three = [await blue.hub(node) for node in ("n1", "n2", "n3")]
    assert await pings(two, one)
    (first,) = one.connections
    old = first.vouched.serial  # type: ignore[attr-defined]
    made = blue.authority.renew("n2")
    assert two.border is not None
    await until(lambda: two.border.identity.current.serial == int(made.serial, 16))
    assert await pings(two, one)  # the living connection goes on
    (second,) = one.connections
    assert second is first
    assert await pings(two, three)  # a new one has the new certificate, as has a listener
    (third,) = three.connections
    assert third.vouched.serial == int(made.serial, 16) != old  # type: ignore[attr-defined]
    four = await blue.hub("n4")
    assert await pings(four, two)
    (fourth,) = four.connections
    assert fourth.vouched.serial == int(made.serial, 16)  # type: ignore[attr-defined]


def renew(blue: Cluster, lifetime_s: float) -> None:
    for node in ("n1", "n2"):
        blue.authority.renew(node, lifetime_s=lifetime_s)


async def cross(monkeypatch: pytest.MonkeyPatch, one: Connections, two: Connections) -> None:
    """Each dials the other, and neither hears of it before."""
    held: list[asyncio.ReadTransport] = []
    own = TlsConnection.connection_made

    def made(self: TlsConnection, transport: Any) -> None:
        own(self, transport)
        if self.dialed is None:
            transport.pause_reading()
            held.append(transport)

    with monkeypatch.context() as patched:
        patched.setattr(TlsConnection, "connection_made", made)
        both = asyncio.gather(pings(one, two), pings(two, one))
        peers = (one.peer(two.address), two.peer(one.address))
        await until(lambda: len(held) == 2 and all(peer.connection for peer in peers))
    for transport in held:
        transport.resume_reading()
    await both


def meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on two sides say their last words in the same turn of the loop."""
    barrier, own = asyncio.Barrier(2), ClosingFrame.say

    async def together(*args: Any) -> int:
        await barrier.wait()
        return await own(*args)

    monkeypatch.setattr(ClosingFrame, "say", together)


@pytest.mark.parametrize("how", ["one dialed", "both dialed", "both at once"])
async def test_conversations_move_on_before_their_certificates_end(
    blue: Cluster, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks in both directions and a stream, over three lives of a certificate: nothing is lost,
    doubled or out of order, and nobody hears of a lost peer."""
    one, two = await blue.hub("n1", lifetime_s=3600), await blue.hub("n2", lifetime_s=3600)
    for hub in (one, two):
        talks(hub)
    lost: list[str] = []
    if how == "one dialed":
        assert await pings(one, two)
    else:  # each has dialed the other, and speaks on its own connection
        await cross(monkeypatch, one, two)
    if how == "both at once":
        meet(monkeypatch)
    one.watch(two.address, lambda: lost.append("two"))
    two.watch(one.address, lambda: lost.append("one"))
    over = asyncio.Event()
    counts = {"one asks": 0, "two asks": 0, "one reads": 0}
    moved = metrics.tls_moves.labels("moved")._value.get()

    async def asks(name: str, asker: Connections, asked: Connections) -> None:
        while not over.is_set():
            counts[name] += 1
            number = counts[name]
            await asyncio.sleep(0.001)
            pong = await asker.ask(asked.address, RtPing(number=number), PATIENCE_S)
            assert pong.number == number

    async def reads() -> None:
        items = one.stream(two.address, RtCount(items=1 << 30, payload="x" * 100), credit=64)
        async for item in items:
            assert item.number == counts["one reads"]
            counts["one reads"] += 1
            if counts["one reads"] % 50 == 0:
                await asyncio.sleep(0.001)
            if over.is_set():
                break
        items.close()

    def spoken_on() -> set[object]:
        """Where there are two connections, both may speak on one; the other one just ends."""
        return {one.peer(two.address).connection, two.peer(one.address).connection}

    async def goes_on() -> None:
        before = dict(counts)
        await until(lambda: all(counts[name] > before[name] + 50 for name in counts))

    work = [
        asyncio.create_task(one_of_them)
        for one_of_them in (asks("one asks", one, two), asks("two asks", two, one), reads())
    ]
    for ends_at, next_s in ((3600, 7200), (7200, 14400)):
        await goes_on()
        first = spoken_on()
        renew(blue, next_s)
        await caught_up(one)
        await caught_up(two)
        assert not lost
        blue.ahead_s = ends_at - 600  # later than any of them would be left
        await until(lambda first=first: not first & spoken_on())  # type: ignore[misc]
    await goes_on()
    over.set()
    await asyncio.wait_for(asyncio.gather(*work), PATIENCE_S)
    assert metrics.tls_moves.labels("moved")._value.get() >= moved + 2
    assert not lost
    assert len(one.connections) <= 3


async def test_a_move_that_breaks_off_is_a_lost_peer(
    blue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await blue.hub("n1", lifetime_s=3600), await blue.hub("n2", lifetime_s=3600)
    assert await pings(one, two)
    two.on_link = lambda *_: None
    gone = asyncio.Event()
    one.watch(two.address, gone.set)
    renew(blue, 7200)
    await caught_up(one)
    await caught_up(two)
    monkeypatch.setattr("supervision.runtime.tls_rotation.MOVE_S", 1.0)
    while not gone.is_set():  # on a slow machine the time may be up before the last word is said
        failed = metrics.tls_moves.labels("failed")._value.get()
        blue.ahead_s = max(3000.0, blue.ahead_s + 200.0)
        assert blue.ahead_s < 3600
        await until(lambda: metrics.tls_moves.labels("failed")._value.get() > failed)  # noqa: B023
        await asyncio.sleep(0.05)  # the loss is told a few turns later, if it is one
    assert await pings(one, two)
    (connection,) = one.connections
    assert connection.ends_at > blue.clock() + 3000  # type: ignore[attr-defined]


async def test_a_connection_ends_with_its_certificate(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2", lifetime_s=3600)
    assert await pings(two, one)
    (connection,) = one.connections
    before = closed("expired")
    ended = asyncio.Event()
    two.watch(one.address, ended.set)
    blue.ahead_s = 3590
    assert await pings(two, one)
    blue.ahead_s = 3601
    await asyncio.wait_for(ended.wait(), PATIENCE_S)
    assert blue.clock() >= connection.ends_at  # type: ignore[attr-defined]
    assert closed("expired") > before
    with pytest.raises(PeerLost):
        await pings(two, one)
    blue.authority.renew("n2", lifetime_s=7200)
    await caught_up(two)
    assert await pings(two, one)


async def test_a_broken_identity_leaves_the_one_in_use(blue: Cluster) -> None:
    one, two = await blue.hub("n1"), await blue.hub("n2")
    failures = metrics.tls_identity_failures._value.get()
    (blue.authority.folder_of("n1") / "node.pem").write_bytes(b"half of a")
    await until(lambda: metrics.tls_identity_failures._value.get() > failures)
    assert await pings(two, one)


# ---- what can be read on the way


async def test_nothing_that_is_said_can_be_read_on_the_way(blue: Cluster) -> None:
    canary = "the canary prompt: sing of yellow feathers"
    one = await blue.hub("n1", route="127.0.0.2")  # reaches n2 through the relay only
    two = await blue.hub("n2", host="127.0.0.1")
    talks(two)
    passed = bytearray()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                passed.extend(data)
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", two.address.port)
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.2", two.address.port)
    pong = await one.ask(two.address, RtPing(payload=canary), PATIENCE_S)
    assert pong.payload.startswith(canary)
    items = one.stream(two.address, RtCount(items=50, payload=canary), credit=64)
    assert len([item async for item in items if item.payload == canary]) == 50
    server.close()
    assert len(passed) > 52 * len(canary)  # it did pass here
    for word in (canary, "yellow", "RtPing", "RtPong", one.address.name, "tether://"):
        assert word.encode() not in passed
    assert b"tether/1" in passed  # the recording can be searched: the first message is plain
