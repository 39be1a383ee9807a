"""Anything at all, sent to a front door: the target of a fuzzer.

`one` takes bytes: the first says how long the segments are, and whether they go by a socket; the
rest is what is sent. What must
hold is that no exception leaves the protocol or an application's task, that what is said is HTTP to
the last byte, one answer a request and at most one refusal, which is the last, and that what is
kept of the client's bytes stays within the bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from typing import Any

from uvicorn.server import ServerState

from supervision.errors import TetherError
from tests.support.door_wire import Wire, config_of
from tests.support.raw_http import answers
from tether.http import cycle
from tether.http.head import MAX_HEAD_BYTES
from tether.http.incoming import MAX_AHEAD_BYTES
from tether.http.protocol import DoorProtocol

_PIECES = 64  # into which an input is cut, about: each costs some turns of a loop
_SHARE = 16  # of the first bytes, one goes by a socket
_POST = b"POST /d HTTP/1.1\r\nhost: t\r\n"
SEEDS = (
    b"\xffGET /a?b HTTP/1.1\r\nhost: t\r\n\r\nHEAD /c HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    b"\x03" + _POST + b"content-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nhost: t\r\n\r\n",
    b"\0" + _POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n",
    b"\xff" + _POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\na",
    b"\xff" + _POST + b"expect: 100-continue\r\ncontent-length: 1\r\n\r\naOPTIONS * HTTP/1.1\r\n",
    b"\x40POST /early HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nabcdefghiGET / HTTP/1.1\r\n",
)


class _Watched(DoorProtocol):
    """It knows how requests were made, those that were refused too: answers to HEAD have no
    bodies."""

    asked: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.asked += (cycle.scope["method"],)
        super()._start_asgi_task(cycle, app)

    def _refuse(self, error: TetherError) -> None:
        if not (self._last or self.transport.is_closing()):
            self.refused += (self.parser.get_method().decode() if self.url else "",)
        super()._refuse(error)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers each request with its body, or `/early` ones at once."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    headers = [(b"content-length", b"%d" % len(body))] if scope["path"] != "/stream" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def one(data: bytes) -> None:
    """
    Raises:
        AssertionError, ValueError: something of the above doesn't hold.
        Exception: one that isn't ours.
    """
    _loop().run_until_complete(_one(data))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs: to make one takes as long as most of them."""
    return asyncio.new_event_loop()


async def _one(data: bytes) -> None:
    failed: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(context))
    logged = cycle.heard.exception
    cycle.heard.exception = lambda *said, **more: failed.append((said, more))  # type: ignore[method-assign]
    first = data[0] if data else 0
    step = max(1 + 37 * first, len(data) // _PIECES)
    pieces = [data[at : at + step] for at in range(1, len(data), step)]
    try:
        said, door = await (by_socket if first % _SHARE == _SHARE - 1 else by_wire)(pieces)
    finally:
        cycle.heard.exception = logged  # type: ignore[method-assign]
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left
    assert not failed, failed
    assert len(door.refused) <= 1
    final = [answer for answer in answers(said, *door.asked, *door.refused) if answer.status >= 200]
    refused = [answer.status for answer in final if answer.status >= 400]
    assert len(final) - len(refused) <= len(door.asked) and len(refused) == len(door.refused)
    assert not refused or final[-1].status == refused[0]


async def by_wire(pieces: list[bytes]) -> tuple[bytes, _Watched]:
    """What is said to them without a socket, which is how most are read: it is quick, and what is
    kept can be looked at behind each piece."""
    wire = Wire(_app, _Watched)
    door = wire.protocol
    assert isinstance(door, _Watched)
    for piece in pieces:
        await wire.feed(piece)
        assert len(door._ahead) <= MAX_AHEAD_BYTES + len(piece)
        assert door._head_bytes <= MAX_HEAD_BYTES and len(door._tail) <= 3
        assert len(wire.state.tasks) <= 1
    return await wire.end(), door


async def by_socket(pieces: list[bytes]) -> tuple[bytes, _Watched]:
    """What is said to them by the transport of asyncio, on a pair of sockets."""
    loop = asyncio.get_running_loop()
    config, state = config_of(_app, _Watched), ServerState()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        _, door = await loop.connect_accepted_socket(lambda: _Watched(config, state, {}), theirs)
        said = bytearray()

        async def read() -> None:
            while part := await loop.sock_recv(ours, 65536):
                said.extend(part)

        reading = loop.create_task(read())
        with contextlib.suppress(ConnectionError):  # it may close before all is sent
            for piece in pieces:
                await loop.sock_sendall(ours, piece)
            ours.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            await reading
    while state.connections or state.tasks:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return bytes(said), door
