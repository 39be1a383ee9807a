"""Messages are what their bytes say, however these are cut into segments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.door_wire import Wire
from tests.support.raw_http import answers
from tether.http.head import MAX_HEAD_BYTES
from tether.http.incoming import MAX_AHEAD_BYTES

GET = b"GET /a%20b?c HTTP/1.1\r\nHost: t\r\nX-A: b  \r\n\r\n"
SIZED = b"POST /p HTTP/1.1\r\nhost: t\r\ncontent-length: 11\r\n\r\n\r\n\r\nGET / H"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nhost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\n\r\n\r\n\r\n1;a=b\r\n0\r\n009\r\n\r\n0\r\n\r\n\r\n\r\n000\r\nHost: u\r\nX: y\r\n\r\n"
)
BARE = b"POST /c HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
UPGRADE = b"connection: Upgrade\r\nupgrade: h2c\r\n"
OLD = b"GET /o HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
HEAD = b"HEAD /h HTTP/1.1\r\nhost: t\r\n\r\n"


def offering(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\r\n" + UPGRADE, 1)


def padded(size: int) -> bytes:
    return GET[:-2] + b"X-B: " + b"y" * (size - len(GET) - 7) + b"\r\n\r\n"


WHOLE = [
    GET, SIZED, CHUNKED, BARE, OLD, HEAD, b"\r\n" + GET, offering(GET), offering(SIZED),
    offering(CHUNKED), offering(BARE), padded(MAX_HEAD_BYTES),
]  # fmt: skip
REFUSED = [
    padded(MAX_HEAD_BYTES + 1),
    b"\n" + GET,
    GET.replace(b"Host: t", b"Host: t\r\nHost: t"),
    GET.replace(b"\r\nX", b"\nX"),
    GET.replace(b"HTTP/1.1", b"HTTP/2.0"),
    SIZED.replace(b"content-length: 11", b"content-length: 1, 1"),
    SIZED.replace(b"host: t", b"host: t\r\ntransfer-encoding: chunked"),
    BARE.replace(b"\r\n0\r\n", b"X\n0\r\n"),
    BARE.replace(b"3\r\n", b"3 \r\n"),
    offering(BARE.replace(b"3\r\n", b"0x3\r\n")),
    CHUNKED.replace(b"X: y", b"X: " + b"y" * 2 * MAX_HEAD_BYTES),
    b"CONNECT a:80 HTTP/1.1\r\nhost: t\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says what came, once all of it is there."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    fields = [[name.decode(), value.decode()[:9]] for name, value in scope["headers"]]
    came = [scope["method"], scope["path"], scope["query_string"].decode(), fields, body.decode()]
    content = json.dumps(came).encode()
    headers = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def said(data: bytes, cuts: Iterable[int] = (), settle: bool = True, app: Any = echo) -> bytes:
    """What is answered to `data`, cut at these places."""
    ends = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(ends) if a < b]

    async def run() -> bytes:
        wire = Wire(app)
        await wire.feed(*pieces, settle=settle)
        return await wire.end()

    return asyncio.run(run())


def statuses(data: bytes, *methods: str) -> list[int]:
    return [answer.status for answer in answers(said(data), *methods)]


def test_what_is_taken_and_what_not() -> None:
    for message in WHOLE:
        method = message.split()[0].decode()
        assert statuses(message + GET, method, "GET") == [200, 200], message
    for message in REFUSED:
        (status,) = statuses(message + GET)
        assert status in (400, 431, 501, 505), message
    for message, body in ((SIZED, SIZED[-11:]), (CHUNKED, b"\r\n\r\n0\r\n0\r\n\r\n\r\n")):
        for form in (message, offering(message)):
            (answer,) = answers(said(form))
            assert json.loads(answer.body)[4].encode() == body


@pytest.mark.parametrize("message", [m for m in WHOLE + REFUSED if len(m) < 1000])
def test_every_single_cut(message: bytes) -> None:
    data = message + GET
    whole = said(data)
    for settle in (True, False):
        assert said(data, range(len(data)), settle) == whole
    for at in range(1, len(data)):
        assert said(data, [at], settle=at % 2 == 0) == whole


@given(
    st.lists(st.sampled_from(WHOLE), max_size=4),
    st.sampled_from([*WHOLE, *REFUSED]),
    st.data(),
    st.booleans(),
)
def test_cuts_change_nothing(first: list[bytes], last: bytes, data: Any, settle: bool) -> None:
    stream = b"".join(first) + last
    cuts = data.draw(st.lists(st.integers(1, len(stream)), max_size=12))
    assert said(stream, cuts, settle) == said(stream)


def test_what_is_sent_ahead_waits_within_a_bound() -> None:
    """Nothing of it is parsed before its turn, and reading stops above the bound."""

    async def run() -> None:
        held = asyncio.Event()

        async def holding(scope: Any, receive: Any, send: Any) -> None:
            await held.wait()
            await echo(scope, receive, send)

        wire = Wire(holding)
        count = 3 * MAX_AHEAD_BYTES // len(GET)
        feeding = asyncio.create_task(wire.feed(*[GET * 100] * (count // 100)))
        for _ in range(200):
            await asyncio.sleep(0)
        assert wire.paused and len(wire.protocol._ahead) < 2 * MAX_AHEAD_BYTES
        assert len(wire.state.tasks) == 1 and not wire.said
        held.set()
        await feeding
        while len(wire.state.tasks):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert len(answers(await wire.end())) == count // 100 * 100

    asyncio.run(run())
