"""The messages that come on a connection: each is cut where it ends before it is parsed.

llhttp parses whatever it is given, uvicorn queues what it finds, and neither says where a message
has ended. Here the parser gets one message, and the next when that is answered: so what a request
leaves unread is nobody's request, what is sent ahead waits as bytes within a bound, and the size of
a head is that of its bytes, however they come. Where the end is: a head's is its empty line, a
body's is what its length says; a body in chunks ends in an empty line too, so it is cut at each.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from supervision.errors import BadRequest, TetherError
from tether.http.cycle import DoorCycle
from tether.http.head import MAX_HEAD_BYTES, Head, HeadTooLarge, decoded, read_head

MAX_AHEAD_BYTES = 64 << 10  # of requests that were sent before the last one is answered
END = b"\r\n\r\n"  # of a head, and of a body in chunks with its trailers


class Incoming(HttpToolsProtocol):
    """The side of a connection on which requests come. `_last` says that no more is wanted."""

    cycle: DoorCycle | None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last = False
        self.url = b""
        self._heading = True  # before the end of a head, else before that of its body
        self._head_bytes = 0
        self._tail = b""  # of what was parsed of a message last, where its end may have begun
        self._left = 0  # of a body whose length is known
        self._chunked = False
        self._excess = 0  # bytes of chunk sizes, extensions and trailers without a body to them
        self._upgrading = False
        self._body_parser: Any = None  # where `parser` takes what follows for another protocol
        self._verdict: TetherError | None = None
        self._ahead = b""

    @abstractmethod
    def _refuse(self, error: TetherError) -> None:
        """Says what is wrong with a head, as the last."""

    @abstractmethod
    def _fault(self, error: TetherError) -> None:
        """Says what is wrong with a body, if that can still be said."""

    @abstractmethod
    def _patient(self) -> None:
        """A head is there, and nobody waits for it any more."""

    @abstractmethod
    def _drained(self) -> None:
        """All of a body that nobody wanted has come."""

    # ---- what comes, a message at a time

    def _take(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            if not self._heading:
                at = self._take_body(data, at)
            elif self.cycle is not None and not self.cycle.response_complete:
                self._keep(data[at:])
                return
            else:
                at = self._take_head(data, at)
            if self._last or self.transport.is_closing():
                return

    def _take_head(self, data: bytes, at: int) -> int:
        """Parses from `at` to the end of the head or of `data`; returns where that is."""
        if not self._tail or self._tail == b"\r":
            # Empty lines before a request, which are ignored (RFC 9112, 2.2).
            expected = b"\n" if self._tail else b"\r"
            if data[at] == expected[0]:
                self._tail = b"" if self._tail else b"\r"
                self._head_bytes += 1
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse(_head_too_large())
                return at + 1
            if self._tail or data[at] == 10:
                self._refuse(_no_http())
                return at
        end = min(self._end(data, at), at + MAX_HEAD_BYTES - self._head_bytes)
        piece = data if end - at == len(data) else data[at:end]
        self._head_bytes += len(piece)
        self._tail = (self._tail + piece)[-3:] if len(piece) < 3 else piece[-3:]
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # it isn't done here; see on_headers_complete
        except httptools.HttpParserError:
            self._verdict = self._verdict or _no_http()
        if self._verdict is not None:
            self._refuse(self._verdict)
        elif self._head_bytes >= MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        return end

    def _take_body(self, data: bytes, at: int) -> int:
        """As `_take_head`, for a body."""
        end = self._end(data, at) if self._chunked else min(at + self._left, len(data))
        piece = data if end - at == len(data) else data[at:end]
        if self._chunked:
            self._tail = (self._tail + piece)[-3:] if len(piece) < 3 else piece[-3:]
            self._excess += len(piece)
        else:
            self._left -= len(piece)
        try:
            (self._body_parser or self.parser).feed_data(piece)
        except httptools.HttpParserError:
            self._fault(_no_http())
        if self._excess > MAX_HEAD_BYTES:
            self._fault(HeadTooLarge(f"chunk extensions or trailers exceed {MAX_HEAD_BYTES} bytes"))
        return end

    def _end(self, data: bytes, at: int) -> int:
        """Where the message may end: after the next empty line, or with `data`."""
        if self._tail:
            found = (self._tail + data[at : at + 3]).find(END)
            if found >= 0:
                return at + found + len(END) - len(self._tail)
        found = data.find(END, at)
        return found + len(END) if found >= 0 else len(data)

    def _keep(self, data: bytes) -> None:
        """What was sent before its turn waits unparsed."""
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD_BYTES:
            self.flow.pause_reading()

    # ---- what the parser finds

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._heading:  # trailers are no headers (RFC 9110, 6.5.1), and nobody wants them
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._patient()
        self._head_bytes = 0
        self._tail = b""
        parser = self.parser
        version, method = parser.get_http_version(), parser.get_method()
        try:
            head = read_head(method, version, self.url, self.headers)
        except TetherError as error:
            self._verdict = error
            return
        self._heading = False
        self._left, self._chunked, self._excess = head.length, head.chunked, 0
        if parser.should_upgrade() and (head.chunked or head.length):
            self._upgrading = True
            self._body_parser = _parser_of_body(self, head)
        scope = self.scope
        scope["method"] = method.decode("ascii")
        scope["http_version"] = version
        path = decoded(head.path)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + head.path
        scope["query_string"] = head.query
        self.cycle = cycle = DoorCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects,
            keep_alive=parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.declared = math.inf if head.chunked else head.length
        self._start_asgi_task(cycle, _server if path == "*" else self.app)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        assert cycle is not None
        if self._chunked:
            self._excess = max(self._excess - 32 * len(body), 0)
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._verdict is not None:
            return
        if self._upgrading:  # the parser holds the body for what follows it
            self._upgrading = False
            return
        self._body_parser = None
        self._heading = True
        cycle = self.cycle
        assert cycle is not None
        cycle.more_body = False
        if not cycle.response_complete:
            cycle.message_event.set()
        else:
            self._drained()


class _BodyOf:
    """What a parser needs of a connection for a body alone."""

    def __init__(self, connection: Incoming) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete


def _parser_of_body(connection: Incoming, head: Head) -> Any:
    """A parser that has seen a head with the same framing, and no offer of another protocol."""
    framing = b"transfer-encoding: chunked" if head.chunked else b"content-length: %d" % head.length
    parser = httptools.HttpRequestParser(_BodyOf(connection))
    parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + END)
    return parser


async def _server(scope: Any, receive: Any, send: Any) -> None:
    """`OPTIONS *`: of the server as a whole there is nothing to be told (RFC 9110, 9.3.7)."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _no_http() -> BadRequest:
    return BadRequest("this is no valid HTTP/1.1 request")


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request's head exceeds {MAX_HEAD_BYTES} bytes")
