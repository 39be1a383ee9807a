"""The HTTP server: uvicorn on a loop that is running already."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from supervision.telemetry.bounded_log import BoundedLog
from tether.http.admission import DoorAdmission
from tether.http.certificate import DoorCertificate
from tether.http.listener import BACKLOG
from tether.http.lobby import Lobby
from tether.http.options import DoorOptions
from tether.http.protocol import DoorProtocol
from tether.http.tls_listener import TlsListener

heard = BoundedLog(__name__)


class _OurLines(logging.Handler):
    """What uvicorn says, as a line of our log."""

    def emit(self, record: logging.LogRecord) -> None:
        heard.warning(
            "the HTTP server says so", record.msg, text=record.getMessage(), level=record.levelname
        )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process that holds us."""
        yield


class HttpServer:
    """Serves `app` on `sock` until `stop`, by TLS if there is a `certificate`.

    `run` returns when the server has ended; it never raises but what a bug would.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        admission: DoorAdmission,
        options: DoorOptions,
        certificate: DoorCertificate | None = None,
    ) -> None:
        lobby = self.lobby = Lobby(
            options.max_connections,
            min(options.max_strangers, options.max_connections),
            options.max_strangers_per_address,
        )
        config = uvicorn.Config(
            app,
            loop="none",
            http=DoorProtocol.bounded(lobby, options.body_timeout_s),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(options.keep_alive_s),
            backlog=BACKLOG,  # it says `listen` once more
        )
        own = logging.getLogger("uvicorn.error")
        own.handlers, own.propagate = [_OurLines()], False
        self._admission = admission
        self._config = config
        self._server = _Server(config)
        self._sock = sock
        self._tls: TlsListener | None = None
        if certificate is not None:
            self._tls = TlsListener(sock, certificate.context, self._within)
        self._ended = asyncio.Event()
        self.port: int = sock.getsockname()[1]

    async def run(self) -> None:
        """Serves; the port accepts connections from before this is called."""
        try:
            if self._tls is not None:
                self._tls.start()
            await self._server.serve(sockets=[] if self._tls is not None else [self._sock])
            if self._server.server_state.tasks:  # cancelled, and about to say so
                await asyncio.wait(self._server.server_state.tasks, timeout=0.3)
        finally:
            if self._tls is not None:
                self._tls.end()
            self._sock.close()
            self._ended.set()

    def withdraw(self) -> None:
        """Take no new connection from now on: they are for others who hold the same listening
        socket, which this closes here alone."""
        if self._tls is not None:
            self._tls.close()
        for server in getattr(self._server, "servers", ()):  # once it has begun to serve
            server.close()
        self._sock.close()

    def _within(self) -> asyncio.Protocol:
        """What speaks within TLS, as uvicorn would make it."""
        made: asyncio.Protocol = self._config.http_protocol_class(
            config=self._config,  # type: ignore[call-arg]
            server_state=self._server.server_state,
            app_state={},
        )
        return made

    async def stop(self, deadline_s: float) -> None:
        """Drains: new requests get 503 while the running ones finish, at most `deadline_s`;
        those that have not by then are ended as broken. Returns when `run` has."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        # uvicorn looks every 0.1 s whether it shall exit, and needs time to end what is left.
        await self._admission.drain(deadline_s - 0.6)
        left = max(end - loop.time() - 0.4, 0.1)
        self._server.config.timeout_graceful_shutdown = left  # type: ignore[assignment]
        self._server.should_exit = True
        if self._tls is not None:
            self._tls.end()
        await self._ended.wait()
