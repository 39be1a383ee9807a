"""Responses by the rules of HTTP, whatever the application does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.door_wire import Wire
from tests.support.raw_http import Said, answers
from tether.http import cycle

GET = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def said(*messages: dict[str, Any], request: bytes = GET) -> bytes:
    """What a client hears of an application that sends these."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def run() -> bytes:
        wire = Wire(app)
        await wire.feed(request)
        return await wire.end()

    return asyncio.run(run())


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr(cycle.heard, "exception", lambda event, *_, **__: logged.append(event))
    return logged


def test_length_chunks_and_the_end() -> None:
    two = (b"content-length", b"2")
    assert answers(said(start(two), body(b"ab"))) == [Said(200, {"content-length": "2"}, b"ab")]
    stream = said(start(), body(b"a", True), body(b"", True), body(b"b"))
    assert answers(stream) == [Said(200, {"transfer-encoding": "chunked"}, b"ab")]
    old = said(start(), body(b"a", True), body(b"b"), request=b"GET / HTTP/1.0\r\n\r\n")
    assert answers(old) == [Said(200, {"connection": "close"}, b"ab")]
    head = said(start(two), body(b"ab"), request=GET.replace(b"GET", b"HEAD"))
    assert answers(head, "HEAD") == [Said(200, {"content-length": "2"}, b"")]
    assert answers(said(start(status=204), body(b""))) == [Said(204, {}, b"")]
    last = said(start(two, (b"connection", b"close")), body(b"ab"), request=GET * 2)
    assert [answer.headers["connection"] for answer in answers(last)] == ["close"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [body(b"a")],
        [start((b"x-a", b"b\r\nx-c: d"))],
        [start((b"x-a", b"b\nc"))],
        [start((b"x-a", b"b\0"))],
    ],
)
def test_what_fails_before_it_says_anything(
    messages: list[dict[str, Any]], failures: list[str]
) -> None:
    (answer,) = answers(said(*messages, request=GET * 2))
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert json.loads(answer.body)["error"]["code"] == "internal_error"
    assert failures == ["a request failed"]


@pytest.mark.parametrize(
    "messages",
    [
        [start((b"content-length", b"2")), body(b"a")],
        [start((b"content-length", b"2")), body(b"abc")],
        [start(), body(b"a", True)],
        [start(), body(b"a", True), start()],
    ],
)
def test_what_fails_later_is_cut(messages: list[dict[str, Any]], failures: list[str]) -> None:
    with pytest.raises(ValueError, match=r"cut|invalid literal"):
        answers(said(*messages, request=GET * 2))
    assert failures == ["a request failed"]


def test_who_is_answered_is_not_told_to_continue(failures: list[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"0")))
        await send(body(b""))
        assert (await receive())["type"] == "http.disconnect"

    async def run() -> bytes:
        wire = Wire(app)
        await wire.feed(GET[:-2] + b"expect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        return await wire.end()

    (answer,) = answers(asyncio.run(run()))
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert not failures
