"""What comes in on a connection: the greeting, and the frames after it, up to who answers them."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from random import Random
from typing import Any, Final

from bench.fuzz.mutation import bytes_changed, framed, packed_changed
from bench.fuzz.target import Target
from supervision.contracts import ActorFound, FindActor, ShowTree, WatchTree
from supervision.runtime import Address, codec, system_messages
from supervision.runtime.connection import Connection
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import on
from supervision.runtime.packed import GROWTH as OF_SYSTEM
from supervision.runtime.peer import Peer
from supervision.runtime.system_road import SystemRoad
from supervision.runtime.wire import (
    ACK,
    ASK,
    CANCEL,
    CREDIT,
    END,
    ERROR,
    HEADER,
    HEADER_SIZE,
    ITEM,
    LEAVE,
    MOVE,
    OLDEST_VERSION,
    OPEN,
    OVERHEAD,
    PROTOCOL_VERSION,
    REPLY,
    STAY,
    SYSTEM,
    TELL,
    U32,
    Greeting,
    frame,
    greet,
)

GROWTH: Final = OF_SYSTEM  # a frame of 13 bytes is answered by an error of ten times as many
SLACK: Final = 65_536  # of a peer, its connection, and what answers

HERE: Final = Address("n1", "12-ab")
_HELLO: Final = greet(Greeting(PROTOCOL_VERSION, "n1", "n1/1-raw/0", 1 << 20, 7, OLDEST_VERSION))


class _Answers:
    """Who is at the other end of the contracts."""

    @on(FindActor)
    def _find(self, msg: FindActor, sender: Address) -> ActorFound:
        return ActorFound(address=f"{sender}")

    @on(ShowTree)
    async def _later(self, msg: ShowTree, sender: Address) -> ActorFound:
        await asyncio.sleep(0)
        return ActorFound(address=f"{sender}")

    @on(WatchTree)
    async def _many(self, msg: WatchTree, sender: Address) -> AsyncIterator[ActorFound]:
        while True:  # for as long as somebody grants more
            for _ in range(9):
                yield ActorFound(address=f"{sender}")
            await asyncio.sleep(0)


class _Wire(asyncio.Transport):
    """The end of a socket whose other end reads at once."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        """It is gone."""

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is held."""

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


class _Process:
    """Connections as a process has them, on a loop of their own."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="fz")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._failed)
        self.failed: BaseException | None = None
        self.hub = Connections(self.loop, folder, Address("n1", f"12-{secrets.token_hex(4)}"))
        self.road = SystemRoad(self.hub.address)
        self.hub.on_system = self._system
        handlers: dict[type, Any] = {}
        dispatch = Dispatch(self.hub, handlers, 16, "fuzz")
        dispatch.add(_Answers())
        dispatch.begin()

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failed = context.get("exception") or RuntimeError(context["message"])

    def _system(self, peer: Peer, payload: bytes) -> None:
        self.road.read(peer.address, payload)

    def read(self, data: bytes) -> None:
        """One connection, from its first byte to its end."""
        self.failed = None
        connection, wire = Connection(self.hub, None), _Wire()
        connection.connection_made(wire)
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            if part and not wire.closed:
                connection.data_received(part)
            self.loop.run_until_complete(asyncio.sleep(0))
        connection.connection_lost(None)
        self.loop.run_until_complete(asyncio.sleep(0))
        if self.failed is not None:
            raise self.failed


_processes: list[_Process] = []


def read(data: bytes) -> None:
    if not _processes:
        _processes.append(_Process())
    _processes[0].read(data)


def _frames() -> tuple[bytes, ...]:
    found = codec.encode(FindActor(name="root"))
    watched, shown = codec.encode(WatchTree()), codec.encode(ShowTree())
    exit_ = system_messages.encode(system_messages.ActorExitRequest())
    bodies = (
        (ASK, 1, found),
        (OPEN, 2, U32.pack(4) + found),
        (TELL, 0, found),
        (REPLY, 3, codec.encode(ActorFound(address=""))),
        (ERROR, 4, codec.encode_error(KeyError("x"))),
        (SYSTEM, 5, exit_),
        (ACK, 5, b""),
        (ITEM, 6, found),
        (END, 6, b""),
        (OPEN, 8, U32.pack(1) + watched),
        (CREDIT, 8, U32.pack(9)),
        (CREDIT, 8, b"\0\0"),
        (OPEN, 9, b"\0\0"),
        (ASK, 7, shown),
        (CANCEL, 1, b""),
        (MOVE, 0, b""),
        (LEAVE, 0, b""),
        (200, 1, b"a later release"),
    )
    each = tuple(_HELLO + frame(*body) for body in bodies)
    return (*each, _HELLO + b"".join(frame(*body) for body in bodies))


def _frames_changed(data: bytes, random: Random) -> bytes:
    """Frames of which one is changed in what it says and keeps its form; now and then as bytes."""
    frames: list[tuple[int, int, bytes]] = []
    rest = data
    while len(rest) >= HEADER_SIZE:
        size, kind, number = HEADER.unpack_from(rest)
        end = HEADER_SIZE - OVERHEAD + size
        frames.append((kind, number, rest[HEADER_SIZE:end]))
        rest = rest[max(end, HEADER_SIZE) :]
    if not frames or random.random() < 0.25:
        return bytes_changed(data, random)
    at = random.randrange(len(frames))
    kind, number, payload = frames[at]
    what = random.randrange(7)
    if what == 0:
        payload = payload[: random.choice((0, 1, 2, 3, 5, len(payload)))]
    elif what == 1:
        payload += random.randbytes(random.randrange(5))
    elif what == 2:
        kind = random.randrange(STAY + 2)
    elif what == 3:
        number = random.choice((0, 1, 2, 8, 2**63, 2**64 - 1))
    elif what == 4:
        kind, number, payload = frames[random.randrange(len(frames))]
    elif kind == OPEN:
        payload = payload[: U32.size] + packed_changed(payload[U32.size :], random)
    else:
        payload = packed_changed(payload, random)
    place = slice(at, at + (what != 4))  # what is said twice is put in
    frames[place] = [(kind, number, payload)]
    return b"".join(frame(*one) for one in frames) + rest


GREETINGS: Final = Target(
    name="greetings",
    read=read,
    seeds=(_HELLO, greet(Greeting(1, "n2", "n2/admin/1900", 4096, 1))),
    growth=GROWTH,
    slack=SLACK,
    ours=(),
    classes=(Address, Greeting),
    change=bytes_changed,
    longest=1100,
)
FRAMES: Final = Target(
    name="frames",
    read=read,
    seeds=_frames(),
    growth=GROWTH,
    slack=SLACK,
    ours=(),
    classes=(Address, Greeting),
    change=framed(_frames_changed, _HELLO),
    longest=8192,
)
