"""A request and its response on a connection: uvicorn's cycle, with the rules of the version that
the client speaks (RFC 9112, sections 6, 7 and 9; RFC 9110, sections 9.3.2 and 10.1.1)."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from supervision.errors import Draining, Internal, TetherError
from supervision.telemetry.bounded_log import BoundedLog
from tether.http import errors

MAX_KEPT_BYTES = 1 << 20  # of a body that nobody wants; a connection with more to come is closed

heard = BoundedLog(__name__)


class DoorCycle(RequestResponseCycle):
    """`declared` is what the body's length was said to be, and without end where it wasn't: a
    client that has its answer may take the connection for its next request before the door has
    seen that too much is still to come. What isn't right in what the
    application sends raises RuntimeError, as uvicorn does."""

    declared: float = 0

    async def run_asgi(self, app: Any) -> None:
        """What the application doesn't catch is logged, and said as everything else is."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                raise RuntimeError("the application returned before its response was complete")
        except asyncio.CancelledError:  # the server's shutdown ran out of patience
            await self._fail(Draining("the server stopped before the answer was complete"))
        except BaseException:
            heard.exception("a request failed", "", path=self.scope["path"][:128])
            await self._fail(Internal("an error of ours; the log has it"))
        finally:
            self.on_response = _nothing

    async def receive(self) -> Any:
        """As of ASGI. The client is told to go on if it waits for that, and nothing of the body is
        there."""
        if self.waiting_for_100_continue:
            self.waiting_for_100_continue = False
            if self.more_body and not self.body and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, bytearray()
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """As of ASGI."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif self.response_started and not self.response_complete and kind == "http.response.body":
            self._continue(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} is out of place")

    async def _fail(self, error: TetherError) -> None:
        if self.response_started:
            self.transport.close()
            return
        status, headers, content = errors.answer(error)
        headers = [*headers, (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content})

    def murmur(self) -> None:
        """Says something that means nothing, wherever the response is: an interim response, which
        a client of HTTP/1.1 discards unasked (RFC 9110, 15.2.1), or a leading zero of the next
        chunk's size (RFC 9112, 7.1). To HTTP/1.0 nothing of the kind can be said."""
        if not self.response_started and self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self.chunked_encoding and not self.response_complete:
            self.transport.write(b"0")

    def _begin(self, status: int, headers: Any) -> None:
        self.expected_content_length = 0
        modern = self.scope["http_version"] == "1.1"
        if self.more_body and (self.waiting_for_100_continue or self.declared > MAX_KEPT_BYTES):
            # Whether the body still comes nobody knows, or it isn't worth waiting for.
            self.keep_alive = False
        lines, ends = [STATUS_LINE[status]], 2
        sized = self.scope["method"] == "HEAD" or status in (204, 304)
        for name, value in (*self.default_headers, *headers):
            if name == b"content-length":
                self.expected_content_length = int(value)
                sized = True
            elif name == b"connection":
                if b"close" in value.lower():
                    self.keep_alive = False
                continue
            lines += (name, b": ", value, b"\r\n")
            ends += 1
        if sized:
            self.chunked_encoding = False
        elif modern:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
            ends += 1
        else:
            self.keep_alive = False  # the end of the connection is the end of the body
        if not self.keep_alive or not modern:
            lines.append(
                b"connection: keep-alive\r\n" if self.keep_alive else b"connection: close\r\n"
            )
            ends += 1
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
            raise RuntimeError("a header of the response would be two")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head)

    def _continue(self, body: bytes, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            parts = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            if not more_body:
                parts.append(b"0\r\n\r\n")
            self.transport.write(b"".join(parts))
        elif body:
            if self.chunked_encoding is not None:
                self.expected_content_length -= len(body)
                if self.expected_content_length < 0:
                    raise RuntimeError("the response is longer than its Content-Length")
            self.transport.write(body)
        if more_body:
            return
        if self.expected_content_length:
            raise RuntimeError("the response is shorter than its Content-Length")
        self.response_complete = True
        self.body.clear()  # what came of it and was never read
        self.message_event.set()
        self.on_response()


def _nothing() -> None:
    """What is done at the end of a response whose connection is left."""
