"""HTTP/1.1 as it is written: what a request says, where it ends, and what comes after it.

Every case sends the request and, on the same connection, another one that ends it: where the first
is refused, nothing after it may be taken for a request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest

from tests.support.http_server import KEY, Served, served
from tests.support.raw_http import Raw, answers, call, chat, events, request, said, talk
from tests.support.waiting import PATIENCE_S, until
from tether.http import server
from tether.http.options import DoorOptions

CHAT = "/v1/chat/completions"
BODY = json.dumps(chat("a b", 2)).encode()
INNER = b"GET /smuggled HTTP/1.1\r\nhost: t\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"


@pytest.fixture
async def door() -> AsyncIterator[Served]:
    async with served() as door:
        yield door


def head(*lines: str, target: str = CHAT, method: str = "POST", version: str = "1.1") -> bytes:
    """A head with these lines, a key and, of HTTP/1.1, a Host unless there is one."""
    fields = [f"authorization: Bearer {KEY}", *lines]
    if version == "1.1" and not any(line.lower().startswith("host") for line in lines):
        fields.insert(0, "host: t")
    text = "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""])
    return text.encode("latin-1")


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


SIZED = f"content-length: {len(BODY)}"
CHUNKED = "transfer-encoding: chunked"
HIDDEN = f"content-length: {len(INNER)}"

TAKEN = {
    "h2c": head("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AA", SIZED)
    + BODY,
    "h2c in chunks": head("connection: upgrade", "upgrade: h2c", CHUNKED) + chunks(BODY),
    "websocket": head(
        "connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", SIZED
    )
    + BODY,
    "no upgrade without its option": head("upgrade: h2c", SIZED) + BODY,
    "websocket by GET": head(
        "connection: Upgrade", "upgrade: websocket", target="/v1/models", method="GET"
    ),
    "empty lines before": b"\r\n\r\n" + head(SIZED) + BODY,
    "chunk extensions": head(CHUNKED) + b"%x;a=b;c\r\n%s\r\n0;d\r\n\r\n" % (len(BODY), BODY),
    "trailers": head(CHUNKED) + chunks(BODY)[:-2] + b"host: x\r\nexpect: y\r\n\r\n",
    "many chunks": head(CHUNKED) + chunks(*(BODY[n : n + 1] for n in range(len(BODY)))),
    "chunks with empty lines": head(CHUNKED) + chunks(b"\r\n\r\n", BODY, b"\r\n\r\n\r\n"),
    "absolute form": head(SIZED, target=f"http://elsewhere{CHAT}") + BODY,
    "absolute form of https": head(SIZED, target=f"https://elsewhere:1{CHAT}?a=b") + BODY,
    "absolute form without a path": head(
        method="OPTIONS", target="http://elsewhere", version="1.1"
    ),
    "the server as a whole": head(method="OPTIONS", target="*"),
    "a space after a length": head(f"content-length: {len(BODY)}  ") + BODY,
    "the body of a GET": head(HIDDEN, method="GET", target="/healthz") + INNER,
}
OK = {"absolute form without a path": 204, "the server as a whole": 204}

REFUSED = {
    "a length and a coding": (400, head(CHUNKED, HIDDEN) + chunks() + INNER),
    "a coding and a length": (400, head(HIDDEN, CHUNKED) + chunks() + INNER),
    "two lengths": (400, head("content-length: 0", HIDDEN) + INNER),
    "one length twice": (400, head(SIZED, SIZED) + BODY),
    "a list of lengths": (400, head("content-length: 0, 36") + INNER),
    "a signed length": (400, head("content-length: +0") + INNER),
    "a negative length": (400, head("content-length: -1") + INNER),
    "a length in hex": (400, head("content-length: 0x24") + INNER),
    "no length": (400, head("content-length:") + INNER),
    "a huge length": (400, head("content-length: 99999999999999999999") + INNER),
    "a folded line": (400, head("x-a: b", " content-length: 36") + INNER),
    "a folded coding": (400, head("transfer-encoding:", " chunked") + chunks() + INNER),
    "a space before a colon": (400, head("content-length : 36") + INNER),
    "a space before the first line": (400, head(" host: t") + INNER),
    "a bare LF": (400, head("x-a: b\nx-c: d") + INNER),
    "a bare CR": (400, head("x-a: b\rx-c: d") + INNER),
    "a bare LF at the end": (400, head()[:-2] + b"\n" + INNER),
    "a bare LF before": (400, b"\n" + head(SIZED) + BODY),
    "a bare CR before": (400, b"\r" + head(SIZED) + BODY),
    "a null": (400, head("x-a: b\0c") + INNER),
    "a name that isn't one": (400, head("x a: b") + INNER),
    "no name": (400, head(": b") + INNER),
    "no colon": (400, head("x-a") + INNER),
    "identity": (400, head("transfer-encoding: identity, chunked") + chunks() + INNER),
    "identity alone": (400, head("transfer-encoding: identity", HIDDEN) + INNER),
    "chunked twice": (400, head(CHUNKED, CHUNKED) + chunks() + INNER),
    "chunked and then not": (400, head("transfer-encoding: chunked, gzip") + chunks() + INNER),
    "almost chunked": (400, head("transfer-encoding: xchunked") + chunks() + INNER),
    "chunked in quotes": (400, head('transfer-encoding: "chunked"') + chunks() + INNER),
    "chunked after a tab": (400, head("transfer-encoding: \x0bchunked") + chunks() + INNER),
    "no coding": (400, head("transfer-encoding:") + chunks() + INNER),
    "another coding": (501, head("transfer-encoding: gzip, chunked") + chunks() + INNER),
    "a chunk's size in hex": (400, head(CHUNKED) + b"0x0\r\n\r\n" + INNER),
    "a space after a chunk's size": (400, head(CHUNKED) + b"0 \r\n\r\n" + INNER),
    "a signed chunk's size": (400, head(CHUNKED) + b"+0\r\n\r\n" + INNER),
    "a chunk's size alone": (400, head(CHUNKED) + b"\r\n\r\n" + INNER),
    "a huge chunk": (400, head(CHUNKED) + b"f" * 17 + b"\r\n" + INNER),
    "a chunk that goes on": (400, head(CHUNKED) + b"1\r\nab\r\n0\r\n\r\n" + INNER),
    "a bare LF in an extension": (400, head(CHUNKED) + b"1;a\nb\r\nc\r\n0\r\n\r\n" + INNER),
    "a bare CR in an extension": (400, head(CHUNKED) + b"1;a\rb\r\nc\r\n0\r\n\r\n" + INNER),
    "a bare LF after a size": (400, head(CHUNKED) + b"0\n\r\n" + INNER),
    "a bare LF after a chunk": (400, head(CHUNKED) + b"1\r\na\n0\r\n\r\n" + INNER),
    "a bare LF in trailers": (400, head(CHUNKED) + b"0\r\na: b\n\r\n" + INNER),
    "no host": (400, head().replace(b"host: t\r\n", b"") + INNER),
    "two hosts": (400, head("host: t", "host: t") + INNER),
    "two hosts of HTTP/1.0": (400, head("host: t", "host: u", version="1.0") + INNER),
    "a host that isn't one": (400, head("host: a b") + INNER),
    "hosts in a list": (400, head("host: a@b") + INNER),
    "chunks of HTTP/1.0": (400, head(CHUNKED, version="1.0") + chunks(BODY)),
    "CONNECT": (501, head(method="CONNECT", target="elsewhere:80") + INNER),
    "a star by another method": (400, head(method="GET", target="*") + INNER),
    "another scheme": (400, head(target="ftp://elsewhere/a") + INNER),
    "an authority": (400, head(target="elsewhere:80") + INNER),
    "a name and its password": (400, head(target=f"http://a:b@elsewhere{CHAT}") + INNER),
    "a fragment": (400, head(target=f"{CHAT}#a") + INNER),
    "no target": (400, head(target="") + INNER),
    "another method": (400, head(method="FOO") + INNER),
    "HTTP/0.9": (505, b"GET /healthz\r\n\r\n" + INNER),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER),
    "HTTP/2.0 in name": (505, head(version="2.0") + INNER),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n" + INNER),
    "an unknown expectation": (417, head("expect: 100-continue, more", HIDDEN) + INNER),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
async def test_taken(door: Served, case: str) -> None:
    first, last = answers(await talk(door.port, TAKEN[case] + LAST))
    assert (first.status, last.status) == (OK.get(case, 200), 200), first.body
    assert "connection" not in first.headers and "upgrade" not in first.headers


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("case", REFUSED)
async def test_refused(door: Served, case: str, apart: bool) -> None:
    status, data = REFUSED[case]
    pieces = [data, LAST] if apart else [data + LAST]
    (answer,) = answers(await talk(door.port, *pieces))
    assert answer.status == status, answer.body
    assert answer.headers["connection"] == "close"
    assert json.loads(answer.body)["error"]["message"]
    assert answer.headers["content-type"] == "application/json"
    assert not door.node.gateway().seen and not door.admission.running


async def test_an_upgrade_is_no_end_of_its_body(door: Served) -> None:
    """The body of a request that offers one is its own, not the next request."""
    inner = request("GET", "/smuggled")
    data = head("connection: upgrade", "upgrade: h2c", f"content-length: {len(inner)}") + inner
    first, last = answers(await talk(door.port, data + LAST))
    assert (first.status, last.status) == (400, 200)  # it's no JSON
    pieces = [bytes((byte,)) for byte in TAKEN["h2c"] + LAST]
    first, last = answers(await talk(door.port, *pieces, pause_s=0))
    assert (first.status, last.status) == (200, 200)


# ---- heads


def sized_head(size: int) -> bytes:
    rest = len(head("x-a: ", method="GET", target="/healthz"))
    return head("x-a: " + "y" * (size - rest), method="GET", target="/healthz")


@pytest.mark.parametrize("after", [b"", head(SIZED) + BODY])
@pytest.mark.parametrize("step", [1 << 20, 16 << 10, 1000])
async def test_a_head_above_32_kib(door: Served, step: int, after: bytes) -> None:
    """However it comes, and behind whatever."""
    behind = [200] if after else []
    for size, expected in ((32 << 10, [200, 200]), ((32 << 10) + 1, [431]), (60 << 10, [431])):
        data = after + sized_head(size) + LAST
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        said = answers(await talk(door.port, *pieces, pause_s=0))
        assert [answer.status for answer in said] == behind + expected
    spaces = head("x-a:" + " " * 60_000 + "b", method="GET", target="/healthz")
    assert [answer.status for answer in answers(await talk(door.port, spaces + LAST))] == [431]


async def test_empty_lines_have_an_end(door: Served) -> None:
    (answer,) = answers(await talk(door.port, b"\r\n" * 20_000))
    assert answer.status == 431


# ---- HEAD


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 200), ("/v1/models/echo", 200), ("/v1/models/no", 404), ("/healthz", 200),
        ("/readyz", 200), ("/nowhere", 404), (CHAT, 405),
    ],
)  # fmt: skip
async def test_head_is_get_without_a_body(door: Served, path: str, status: int) -> None:
    found = {}
    for method in ("GET", "HEAD"):
        first, last = answers(await talk(door.port, request(method, path) + LAST), method, "GET")
        assert (first.status, last.status) == (status, 200)
        found[method] = first.headers
    for name in (
        "x-request-id",
        "traceparent",
    ):
        for headers in found.values():
            headers.pop(name)
    if path == CHAT:  # the message names the method
        found["GET"]["content-length"] = str(int(found["GET"]["content-length"]) + 1)
    assert found["GET"] == found["HEAD"]


async def test_head_of_what_the_server_itself_refuses(door: Served) -> None:
    for data in (head("host: t", "host: t", method="HEAD", target="/healthz"),
                 sized_head(40_000).replace(b"GET", b"HEAD")):  # fmt: skip
        (answer,) = answers(await talk(door.port, data), "HEAD")
        assert answer.status in (400, 431) and int(answer.headers["content-length"])


# ---- HTTP/1.0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("keep", [True, False])
async def test_http_1_0(door: Served, stream: bool, keep: bool) -> None:
    """No chunks: a stream ends with the connection, another answer only if it isn't to be kept."""
    body = json.dumps(chat("a b", 3, stream=stream)).encode()
    lines = [f"content-length: {len(body)}", *(["connection: keep-alive"] if keep else [])]
    said_all = answers(await talk(door.port, head(*lines, version="1.0") + body + LAST))
    first = said_all[0]
    assert first.status == 200 and "transfer-encoding" not in first.headers
    if stream:
        assert said(first.body) == "a b a " and events(first.body)[-1] == "[DONE]"
        assert "content-length" not in first.headers
    kept = keep and not stream
    assert first.headers["connection"] == ("keep-alive" if kept else "close")
    assert len(said_all) == (2 if kept else 1)


async def test_http_1_0_has_no_expectations(door: Served) -> None:
    data = head(SIZED, "expect: 100-continue", version="1.0") + BODY
    assert [answer.status for answer in answers(await talk(door.port, data))] == [200]


# ---- Expect


async def test_who_is_refused_is_not_told_to_continue() -> None:
    async with served(options=DoorOptions(port=0, max_body_bytes=1000)) as door:
        for lines, status in (
            (["expect: 100-continue", "content-length: 5000"], 413),
            (["expect: 100-Continue", "content-length: 99999999999"], 413),
            (["expect: 100-continue", "content-length: 9", "content-encoding: br"], 400),
            (["expect: nothing", "content-length: 9"], 417),
        ):
            (answer,) = answers(await talk(door.port, head(*lines)))
            assert (answer.status, answer.headers["connection"]) == (status, "close")


async def test_who_sends_at_once_is_not_told_to_continue(door: Served) -> None:
    data = head(SIZED, "expect: 100-continue")
    assert [a.status for a in answers(await talk(door.port, data + BODY + LAST))] == [200, 200]
    said = answers(await talk(door.port, data, BODY + LAST, pause_s=0.2))
    assert [answer.status for answer in said] == [100, 200, 200]
    said = answers(await talk(door.port, head("expect: 100-continue") + LAST))
    assert [answer.status for answer in said] == [400, 200]  # it has no body


# ---- what is left unread


def sends_first(port: int, data: bytes) -> bytes:
    """All that is said, read when all is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        sock.sendall(data)
        time.sleep(0.05)  # the answer lies there now, if nothing has taken it away
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("status", "target", "lines", "options"),
    [
        (413, CHAT, [], {}),
        (404, "/nowhere", [], {}),
        (400, CHAT, ["content-encoding: gzip"], {}),
        (400, CHAT, ["host: t", "host: u"], {}),
        (431, CHAT, ["x-a: " + "y" * 40_000], {}),
        (503, CHAT, [], {"max_connections": 1}),
    ],
)
@pytest.mark.parametrize("size", [5 << 20, 40 << 20])
async def test_a_refusal_is_read_by_who_sends_first(
    status: int, target: str, lines: list[str], options: dict[str, int], size: int
) -> None:
    """As Node and the standard library do: all of the body, then the answer."""
    data = head(*lines, f"content-length: {size}", target=target) + b"x" * size
    async with served(options=DoorOptions(port=0, **options)) as door:  # type: ignore[arg-type]
        async with await Raw.open(door.port) as idle:
            idle.write(request("GET", "/v1/models"))  # with a key: it gives way to nobody
            await idle.answer()
            (answer,) = answers(await asyncio.to_thread(sends_first, door.port, data))
            assert answer.status == status
        await until(lambda: not door.server._server.server_state.connections)


async def test_a_body_that_nobody_wants_ends_no_connection(door: Served) -> None:
    """A moderate one is read and thrown away, and the next request is taken."""
    data = head(f"content-length: {512 << 10}", target="/nowhere") + b"x" * (512 << 10)
    first, last = answers(await talk(door.port, data[:1000], data[1000:] + LAST, pause_s=0.1))
    assert (first.status, last.status) == (404, 200)
    (first,) = answers(
        await talk(door.port, head(f"content-length: {2 << 20}", target="/nowhere") + b"x", INNER)
    )
    assert (first.status, first.headers["connection"]) == (404, "close")
    # How much of a body in chunks is to come nobody has said; a client that has its answer must not
    # take the connection for its next request.
    data = chunks(*[b"x" * 1000] * 500)
    for part in (data[:1], data):
        said = await talk(door.port, head(CHUNKED, target="/nowhere"), part, pause_s=0.1)
        (first,) = answers(said)
        assert (first.status, first.headers["connection"]) == (404, "close")


async def test_a_wrong_chunk_after_the_answer_is_no_request(door: Served) -> None:
    said = await talk(door.port, head(CHUNKED, target="/nowhere"), b"zz\r\n" + INNER + LAST)
    assert [answer.status for answer in answers(said)] == [404]


async def test_requests_sent_ahead_are_bounded_and_answered(door: Served) -> None:
    count = 3000
    ahead = b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n" * count
    said = answers(await talk(door.port, head(SIZED) + BODY + ahead + LAST))
    assert [answer.status for answer in said] == [200] * (count + 2)


async def test_who_asked_to_close_is_answered_once(door: Served) -> None:
    data = head(SIZED, "connection: close") + BODY
    (answer,) = answers(await talk(door.port, data + INNER + LAST))
    assert (answer.status, answer.headers["connection"]) == (200, "close")


# ---- half-closed connections


@pytest.mark.parametrize("stream", [True, False])
async def test_who_sends_no_more_is_answered(door: Served, stream: bool) -> None:
    body = json.dumps(chat("a delay=30", 10, stream=stream)).encode()
    data = head(f"content-length: {len(body)}") + body
    *interim, answer = answers(await talk(door.port, data, shut=True))
    assert answer.status == 200 and {said.status for said in interim} <= {100}
    if stream:
        assert said(answer.body) == "a delay=30 " * 5
    else:
        assert json.loads(answer.body)["choices"][0]["message"]["content"] == "a delay=30 " * 5
    assert not door.node.gateway().cancelled
    two = answers(await talk(door.port, data + head(SIZED) + BODY, shut=True))
    assert [answer.status for answer in two if answer.status >= 200] == [200, 200]


@pytest.mark.parametrize("stream", [True, False])
async def test_who_is_gone_is_noticed(door: Served, stream: bool) -> None:
    """Also later than the end of what it sends, and with requests sent ahead."""
    gateway = door.node.gateway()
    for late in (False, True):
        async with await Raw.open(door.port) as raw:
            raw.post(CHAT, chat("hold", stream=stream))
            raw.write(request("GET", "/healthz"))
            if stream:
                await raw.head()
            await until(lambda: gateway.running == 1)
            if late:
                raw.writer.write_eof()
                await asyncio.sleep(0.5)
                assert gateway.running == 1
        await until(lambda: gateway.running == 0)
        await until(lambda: door.admission.running == 0)


async def test_half_a_request_is_refused(door: Served) -> None:
    (answer,) = answers(await talk(door.port, head(SIZED) + BODY[:-1], shut=True))
    assert answer.status == 400 and b"ended" in answer.body
    assert await talk(door.port, head(SIZED)[:-1], shut=True) == b""
    assert await talk(door.port, b"", shut=True) == b""
    await until(lambda: door.admission.running == 0)
    assert (await call(door.port, "GET", "/healthz"))[0] == 200


async def test_the_server_has_no_log_of_its_own(
    door: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a line on what a client has sent; and what else uvicorn says is a line of our log."""
    ours: list[str] = []
    monkeypatch.setattr(
        server.heard, "warning", lambda event, *_, **more: ours.append(more["text"])
    )
    root: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = root.append  # type: ignore[method-assign, assignment]
    logging.getLogger().addHandler(handler)
    try:
        for data in (TAKEN["h2c"], *(data for _, data in REFUSED.values())):
            await talk(door.port, data + LAST)
        assert not ours and not root
        logging.getLogger("uvicorn.error").error("ports are rare")
        assert ours == ["ports are rare"] and not root
    finally:
        logging.getLogger().removeHandler(handler)


async def test_answers_are_dated(door: Served) -> None:
    """RFC 9110, 6.6.1."""
    for data in (LAST, REFUSED["no host"][1]):
        (answer,) = answers(await talk(door.port, data))
        assert parsedate_to_datetime(answer.headers["date"])
