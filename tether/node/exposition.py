"""What all processes of a node count, in Prometheus' text format, over the plainest HTTP there is.

One request a connection, which is closed afterwards. Nothing waits for a scraper: it has
`SCRAPE_S` from its connection to the last byte of its answer, and holds nothing but that answer.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httptools
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog

PATH: Final = b"/metrics"
MAX_SCRAPES: Final = 8  # connections at once
MAX_HEAD_BYTES: Final = 16 << 10
SCRAPE_S: Final = 10.0
_PLAIN: Final = "text/plain; charset=utf-8"

heard = BoundedLog(__name__)
_used = bounds.used.labels("scrapes")
_refused = bounds.refused.labels("scrapes")


def exposition() -> bytes:
    """All metrics: the sum over all processes that share a folder of them
    (`PROMETHEUS_MULTIPROC_DIR`), else those of this process alone. Reads a file for each
    process."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class Scrapes:
    """All that are under way; `answer` is for `asyncio.start_server`, with `MAX_HEAD_BYTES` as its
    limit. One text is made at a time, in a thread of its own."""

    def __init__(self, *, timeout_s: float = SCRAPE_S) -> None:
        self._timeout_s = timeout_s
        self._reader = ThreadPoolExecutor(1, "metrics")
        self._running = 0

    def close(self) -> None:
        """Make no more texts."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One scraper, whoever it is."""
        if self._running >= MAX_SCRAPES:
            _refused.inc()
            writer.transport.abort()
            return
        self._running += 1
        _used.set(self._running)
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(await self._said(reader))
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it has left, or takes too long
        except Exception:
            heard.exception("a scrape failed", "")
        finally:
            writer.transport.abort()
            self._running -= 1
            _used.set(self._running)

    async def _said(self, reader: asyncio.StreamReader) -> bytes:
        asked = _Asked()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            parser = httptools.HttpRequestParser(asked)
            parser.feed_data(head)
            method = parser.get_method()
            path = httptools.parse_url(asked.target).path
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"the head is too large\n")
        except httptools.HttpParserUpgrade:
            return _response("400 Bad Request", b"this is for scrapes of metrics alone\n")
        except httptools.HttpParserError:
            return _response("400 Bad Request", b"this is no HTTP/1.1\n")
        if path != PATH:
            return _response("404 Not Found", b"there is only %b here\n" % PATH)
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"GET it\n", ("allow", "GET, HEAD"))
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._reader, exposition)
        whole = _response("200 OK", text, kind=CONTENT_TYPE_LATEST)
        return whole if method == b"GET" else whole[: -len(text)]


class _Asked:
    """What httptools tells of a request."""

    target = b""

    def on_url(self, target: bytes) -> None:
        self.target += target


def _response(status: str, content: bytes, *more: tuple[str, str], kind: str = _PLAIN) -> bytes:
    headers = [
        ("content-type", kind),
        ("content-length", str(len(content))),
        ("cache-control", "no-store"),
        ("connection", "close"),
        *more,
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + content
