"""HTTP/1.1 on a connection: uvicorn's httptools protocol, with the bounds it lacks.

uvicorn bounds neither the size of a head nor the time it may take, and says its own errors as
plain text. Everything else is left as it is.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tether.errors import BadRequest, Overloaded, TetherError
from tether.http import errors
from tether.telemetry import metrics

MAX_HEAD_BYTES = 32 << 10


class HeadTooLarge(BadRequest):
    code, status = "head_too_large", 431


class DoorProtocol(HttpToolsProtocol):
    """One connection. The bounds are class variables, set once per process by `bounded`."""

    max_connections: ClassVar[int] = 8192
    head_timeout_s: ClassVar[float] = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of the head that is arriving
        self._heading = True
        self._impatience: asyncio.TimerHandle | None = None

    @classmethod
    def bounded(cls, max_connections: int, head_timeout_s: float) -> type[DoorProtocol]:
        """This protocol with other bounds."""
        bounds = {"max_connections": max_connections, "head_timeout_s": head_timeout_s}
        return type("DoorProtocol", (cls,), bounds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _connections.inc()
        if len(self.connections) > self.max_connections:
            _refused.inc()
            self._refuse(Overloaded(f"{self.max_connections} connections are open already"))
            return
        self._impatience = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _connections.dec()
        self._patient()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self._heading:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"the request's head exceeds {MAX_HEAD_BYTES} bytes"))
        elif self._impatience is None and not self.transport.is_closing():
            self._impatience = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._heading = False
        self._patient()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed as HTTP. Said at most once, and not into a running answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
        else:
            self._refuse(BadRequest("this is no valid HTTP/1.1 request"))

    def _too_slow(self) -> None:
        self._impatience = None
        self.transport.close()

    def _patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _refuse(self, error: TetherError) -> None:
        self._patient()
        if self.transport.is_closing():
            return
        status, headers, content = errors.answer(error)
        head = [STATUS_LINE[status]]
        for name, value in headers:
            if name != b"connection":
                head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", content]))
        self.transport.close()


_connections = metrics.bound_used.labels("door_connections")
_refused = metrics.bound_refused.labels("door_connections")
