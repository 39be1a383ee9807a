"""HTTP/1.1 on a connection: uvicorn's httptools protocol, with the bounds it lacks.

uvicorn bounds neither the size of a head or of trailers nor the time they may take, takes the body
of a request that offers `Upgrade` for the next request, resets connections whose client still
sends, waits for ever for one that doesn't read, and says its own errors as plain text.

How messages are taken apart is in `tether.http.incoming`. A connection is closed when its client
can have read what it was told (`tether.http.lingering`); one that the client has half closed is
kept until its answer is complete (`tether.http.half_close`).
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.protocols.utils import is_ssl

from supervision.errors import BadRequest, Overloaded, TetherError
from tether.http import errors
from tether.http.cycle import MAX_KEPT_BYTES
from tether.http.half_close import HalfClosed
from tether.http.incoming import Incoming
from tether.http.lingering import Lingering, Remainder
from tether.http.lobby import VISIT, Lobby, Visit

STUCK_S = 10.0  # between two looks at a client that doesn't read


class DoorProtocol(Incoming):
    """One connection. The bounds are class variables, set once per process by `bounded`."""

    lobby: ClassVar[Lobby] = Lobby(8192, 1024, 256)
    head_timeout_s: ClassVar[float] = 30.0
    lingering: ClassVar[Lingering] = Lingering()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._half: HalfClosed | None = None
        self._remainder: Remainder | None = None
        self._impatience: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._visit: Visit | None = None

    @classmethod
    def bounded(cls, lobby: Lobby, head_timeout_s: float) -> type[DoorProtocol]:
        """This protocol with other bounds."""
        bounds = {"lobby": lobby, "head_timeout_s": head_timeout_s, "lingering": Lingering()}
        return type("DoorProtocol", (cls,), bounds)

    # ---- the connection

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
        self._unset_keepalive_if_required()
        self._patient()
        self._ahead = b""
        self._body_parser = None
        for watch in (self._remainder, self._half):
            if watch is not None:
                watch.end()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._remainder is not None and self._remainder.heard(len(data)) > MAX_KEPT_BYTES:
            self._linger()
        if self._last:
            return
        if self._ahead:
            self._keep(data)
            return
        self._take(data)
        if self._heading and self._impatience is None and not self._busy():
            # What has come has taken uvicorn's timer away, be it a head or an empty line. A body
            # is the matter of its exchange, which has a deadline, or of its drain.
            self._impatience = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[VISIT] = self._visit  # type: ignore[typeddict-unknown-key]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Nothing more will come. Whether the connection stays open: for an answer that is yet to
        come, where TCP itself says so (TLS has no half-closed connections here)."""
        if self._last or is_ssl(self.transport) or not self._awaited():
            return False
        descriptor = self.transport.get_extra_info("socket").fileno()
        self._half = HalfClosed(self.loop, descriptor, self._murmur, self.transport.abort)
        return True

    def shutdown(self) -> None:
        self.lingering.hurry()
        if self._remainder is not None:
            self._linger()
        else:
            super().shutdown()

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

    # ---- what is answered

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        cycle = self.cycle
        assert cycle is not None
        cycle.body.clear()  # what came of it and was never read, as long as the connection
        if self.transport.is_closing() or self._last:
            return
        if not cycle.keep_alive:
            if cycle.more_body or self._ahead:
                self._linger()
            else:
                self.transport.close()
            return
        self.flow.resume_reading()
        if cycle.more_body:
            if self._half is not None:
                self.transport.close()
            else:
                self._remainder = self.lingering.begin(self.loop, self._too_slow)
            return
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._take(ahead)
        if self._half is not None:
            if not self._awaited():
                self.transport.close()
        elif cycle is self.cycle:
            self._idle()

    def _awaited(self) -> bool:
        """Whether an answer is still awaited by a client that sends no more."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        if cycle.more_body and not cycle.response_started:
            self._fault(BadRequest("the body ended before all of it was there"))
            return False
        return True

    def _busy(self) -> bool:
        return self._last or (self.cycle is not None and not self.cycle.response_complete)

    def _drained(self) -> None:
        if self._remainder is not None:
            self._remainder.end()
            self._remainder = None
            self._idle()

    def _idle(self) -> None:
        """Waits for the next request, which may have begun."""
        if self._impatience is not None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._head_bytes:
            self._impatience = self.loop.call_later(self.head_timeout_s, self._too_slow)
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _murmur(self) -> None:
        if self.cycle is not None and not self.flow.write_paused:
            self.cycle.murmur()

    def _fault(self, error: TetherError) -> None:
        """What is wrong with a body: said at most once, and not into a running answer."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        elif self._remainder is not None:
            self._linger()
            return
        self._refuse(error)

    def _refuse(self, error: TetherError) -> None:
        """Says what is wrong with a request that the application shall not see, as the last."""
        if self.transport.is_closing() or self._last:
            return
        status, headers, content = errors.answer(error)
        head = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            if name != b"connection":
                head += [name, b": ", value, b"\r\n"]
        head.append(b"connection: close\r\n\r\n")
        if not (self.url and self.parser.get_method() == b"HEAD"):
            head.append(content)
        self.transport.write(b"".join(head))
        self._linger()

    def _linger(self) -> None:
        """Nothing is said any more, and what comes is thrown away, until the client closes or the
        bounds of `Lingering` are reached."""
        if self.transport.is_closing() or self._last:
            return
        self._last = True
        self._patient()
        self._ahead = b""
        if self._half is not None:
            self.transport.close()
            return
        if self._remainder is None:
            self._remainder = self.lingering.begin(self.loop, self._too_slow)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def show_out(self) -> None:
        """See `lobby.Visitor`. What runs on it is ended, what it has not read is lost. A word for
        each, and time for each to read it, is what a flood of strangers would have of us; and on a
        connection without a request an answer is none that HTTP knows."""
        self._patient()
        self.transport.abort()

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
