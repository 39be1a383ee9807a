"""HTTP/1.1 on a connection: uvicorn's httptools protocol, with the bounds it lacks.

uvicorn bounds neither the size of a head or of trailers nor the time they may take, waits for
ever for a client that doesn't read its last bytes, and says its own errors as plain text.
Everything else is left as it is.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from supervision.errors import BadRequest, Overloaded, TetherError
from tether.http import errors
from tether.http.lobby import VISIT, Lobby, Visit

MAX_HEAD_BYTES = 32 << 10  # also of chunk extensions and trailers, with which no body comes
STUCK_S = 10.0  # between two looks at a client that doesn't read


class HeadTooLarge(BadRequest):
    code, status = "head_too_large", 431


class DoorProtocol(HttpToolsProtocol):
    """One connection. The bounds are class variables, set once per process by `bounded`."""

    lobby: ClassVar[Lobby] = Lobby(8192, 1024, 256)
    head_timeout_s: ClassVar[float] = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of the head that is arriving
        self._idle_bytes = 0  # after it, since there was any body
        self._heading = True
        self._impatience: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._visit: Visit | None = None

    @classmethod
    def bounded(cls, lobby: Lobby, head_timeout_s: float) -> type[DoorProtocol]:
        """This protocol with other bounds."""
        bounds = {"lobby": lobby, "head_timeout_s": head_timeout_s}
        return type("DoorProtocol", (cls,), bounds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            self._visit = self.lobby.enter(self, self.client[0] if self.client else "")
        except Overloaded as error:
            self._refuse(error)
            return
        self._impatience = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._visit is not None:
            self._visit.end()
        self._patient()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._idle_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._heading:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request's head exceeds {MAX_HEAD_BYTES} bytes"))
                return
        elif self._idle_bytes > MAX_HEAD_BYTES:
            self.transport.close()
            return
        elif self.cycle is not None and not self.cycle.response_complete:
            return  # the exchange has a deadline of its own
        # What comes now takes uvicorn's timer away, be it a head, an empty line, or the rest of a
        # body that nobody wants any more.
        if self._impatience is None:
            self._impatience = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading = True
        self._head_bytes = 0
        self.scope[VISIT] = self._visit  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._heading = False
        self._idle_bytes = 0
        self._patient()
        super().on_headers_complete()
        self.headers = []  # trailers are no headers (RFC 9110, 6.5.1), and nobody wants them

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle.body.clear()  # what came of it and was never read, as long as the connection
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK_S, self._look)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def timeout_keep_alive_handler(self) -> None:
        self._too_slow()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed as HTTP. Said at most once, and not into a running answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
        else:
            self._refuse(BadRequest("this is no valid HTTP/1.1 request"))

    def show_out(self, why: TetherError) -> None:
        """See `lobby.Visitor`. What runs on it is ended, and what it hasn't read is lost."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._patient()
            self.transport.abort()
        else:
            self._refuse(why)
            self.loop.call_later(STUCK_S, self.transport.abort)

    def _too_slow(self) -> None:
        self._impatience = None
        self.transport.close()
        # It closes when all is written, which the client may never let happen.
        self.loop.call_later(STUCK_S, self.transport.abort)

    def _look(self) -> None:
        """Nobody reads. While an exchange lasts, that is its matter."""
        if self.transport.is_closing():
            self._stuck = None
            self.transport.abort()
        else:
            self._stuck = self.loop.call_later(STUCK_S, self._look)

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
