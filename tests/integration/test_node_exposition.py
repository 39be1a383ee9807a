"""The listener of a node's metrics: scrapers of all kinds, none of which holds anything up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervision.telemetry import bounds
from tests.support.waiting import PATIENCE_S, until
from tether.node import exposition
from tether.node.exposition import MAX_HEAD_BYTES, MAX_SCRAPES, Scrapes

SCRAPE = b"GET /metrics?name[]=up HTTP/1.1\r\nhost: a\r\naccept: text/plain\r\n\r\n"


@asynccontextmanager
async def listening(timeout_s: float = PATIENCE_S) -> AsyncIterator[int]:
    scrapes = Scrapes(timeout_s=timeout_s)
    server = await asyncio.start_server(scrapes.answer, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        scrapes.close()


async def said(port: int, request: bytes) -> tuple[str, bytes]:
    """Status and body of the answer, after which the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), body


def under_way() -> float:
    return float(bounds.used.labels("scrapes")._value.get())


async def test_a_scrape_is_prometheus_text() -> None:
    async with listening() as port:
        status, body = await said(port, SCRAPE)
        assert status == "HTTP/1.1 200 OK"
        families = {f.name for f in text_string_to_metric_families(body.decode())}
        assert "tether_bound_used" in families
        assert await said(port, SCRAPE.replace(b"GET", b"HEAD")) == (status, b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
        (b"GET /metrics/x HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", "405"),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02 hello\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n", "431"),
    ],
)
async def test_what_is_no_scrape(request_: bytes, status: str) -> None:
    async with listening() as port:
        assert (await said(port, request_))[0].split()[1] == status
        assert (await said(port, SCRAPE))[0] == "HTTP/1.1 200 OK"


async def test_who_says_nothing_or_reads_nothing_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More text than the kernel takes, and a client that doesn't read it; others are answered
    meanwhile, and both are cut off when their time is over."""
    monkeypatch.setattr(exposition, "exposition", lambda: b"# much\n" * 4_000_000)
    async with listening(1.0) as port:
        silent = await asyncio.open_connection("127.0.0.1", port)
        deaf = socket.create_connection(("127.0.0.1", port))
        deaf.sendall(SCRAPE)
        await until(lambda: under_way() == 2)
        status, _ = await said(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert "404" in status and under_way() == 2
        await until(lambda: under_way() == 0)
        assert await asyncio.wait_for(silent[0].read(), PATIENCE_S) == b""
        silent[1].close()
        deaf.close()


async def test_a_disk_that_is_away_holds_only_scrapes(monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    back = Event()
    monkeypatch.setattr(exposition, "exposition", _waiting(back))
    async with listening(0.5) as port:
        assert await said(port, SCRAPE) == ("", b"")
        assert "404" in (await said(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"))[0]
        back.set()
        assert await said(port, SCRAPE) == ("HTTP/1.1 200 OK", b"# here\n")


def _waiting(back: object) -> Callable[[], bytes]:
    def exposition() -> bytes:
        back.wait(PATIENCE_S)  # type: ignore[attr-defined]
        return b"# here\n"

    return exposition


async def test_so_many_at_once_and_no_more() -> None:
    refused = float(bounds.refused.labels("scrapes")._value.get())
    async with listening() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_SCRAPES)]
        await until(lambda: under_way() == MAX_SCRAPES)
        with pytest.raises((ConnectionError, AssertionError)):
            assert (await said(port, SCRAPE))[0]
        assert float(bounds.refused.labels("scrapes")._value.get()) == refused + 1
        for _, writer in held:
            writer.close()
        await until(lambda: under_way() == 0)
        assert (await said(port, SCRAPE))[0] == "HTTP/1.1 200 OK"
