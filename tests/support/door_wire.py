"""A connection of the front door without a socket: what is fed to it, and what it says.

`Wire` is a whole transport of asyncio's. Nothing is delayed: what the protocol writes is there, and
a task that can run has run once `settle` is over.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from tether.http.protocol import DoorProtocol

_TURNS = 12


class Wire(asyncio.Transport):
    """The server's side of one connection. `said` is all that it wrote."""

    def __init__(self, app: Any, protocol: type[DoorProtocol] = DoorProtocol) -> None:
        super().__init__()
        self.said = b""
        self.state = ServerState()
        self.closed = self.shut = self.paused = self.lost = False
        self._loop = asyncio.get_running_loop()
        self.protocol = protocol(config_of(app, protocol), self.state, {})
        self.protocol.connection_made(self)

    async def feed(self, *pieces: bytes, settle: bool = True) -> bytes:
        """Hands `pieces` in, each once the door reads; with `settle` all that can run has run
        between them. What was said so far."""
        for piece in pieces:
            while self.paused and not self.closed:  # noqa: ASYNC110
                await asyncio.sleep(0)
            if not self.closed:
                self.protocol.data_received(piece)
            if settle:
                await self.settle()
        if not settle:
            await self.settle()
        return self.said

    async def settle(self) -> None:
        """Returns when nothing can go on but by what comes from outside; applications that wait
        for something else than the body are not waited for, nor is one that never rests."""
        ready = getattr(self._loop, "_ready", True)  # asyncio's own queue: what can run now
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if not ready:
                return

    async def end(self) -> bytes:
        """The client sends no more; returns when the connection is closed."""
        if not self.closed and not self.protocol.eof_received():
            self.close()
        while not self.lost:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return self.said

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.shut, "written after the end"
        if not self.closed:
            self.said += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.shut = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._lose)

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def _lose(self) -> None:
        self.lost = True
        self.protocol.connection_lost(None)


def config_of(app: Any, protocol: type[DoorProtocol]) -> uvicorn.Config:
    """As the server of a door has it, as far as a connection looks at it."""
    return uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", interface="asgi3", log_config=None
    )
