"""Hubs of several nodes on one loop, each with an identity, and strangers who want in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from actors.core.node_roles import ROLES
from supervision.runtime import Address
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import reply
from supervision.runtime.node_transport import NodeTransport
from supervision.runtime.peer import Peer
from supervision.runtime.routes import ListenAddress, Routes
from supervision.runtime.sockets import fresh_name
from supervision.runtime.wire import ASK, PROTOCOL_VERSION, Framer, Greeting, greet
from supervision.security.authority import Authority
from supervision.security.identity import PROTOCOL, Identity
from supervision.security.name import OPERATOR
from tests.support.runtime_actors import RtPing, RtPong
from tests.support.waiting import PATIENCE_S, until

HOST = "127.0.0.1"


def answer(peer: Peer, kind: int, number: int, payload: bytes) -> None:
    if kind == ASK:
        reply(peer, number, RtPong(number=number))


async def pings(asker: Connections, asked: Connections, timeout: float = PATIENCE_S) -> bool:
    return isinstance(await asker.ask(asked.address, RtPing(), timeout), RtPong)


class Cluster:
    """`hub("n2")` is a process of node n2, in a run directory of its own, which answers asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.init(folder / "ca", "blue")
        self.hubs: list[Connections] = []
        self.ahead_s = 0.0  # of the clock of the machine, and so of OpenSSL's

    def clock(self) -> float:
        """The clock by which the hubs end certificates, in place of short lives."""
        return time.time() + self.ahead_s

    async def hub(
        self,
        node: str,
        *,
        authority: Authority | None = None,
        host: str = HOST,
        route: str = HOST,
        identity_dir: Path | None = None,
        kept: Path | None = None,
        **issue: Any,
    ) -> Connections:
        authority = authority or self.authority
        where = identity_dir or authority.folder_of(node)
        if not where.exists():
            roles = () if node.startswith(OPERATOR) else ROLES
            authority.issue(node, **{"roles": roles, **issue})
        routes = Routes({f"n{i}": route for i in range(1, 6)})
        border = NodeTransport(
            Identity(where, node, kept=kept, clock=self.clock),
            routes,
            ListenAddress(host) if host else None,
        )
        hub = Connections(
            asyncio.get_running_loop(),
            str(self.folder / f"r-{node}"),
            Address(node, fresh_name(), border.port),
            border=border,
        )
        hub.on_request = answer
        self.hubs.append(hub)
        await hub.start()
        async with asyncio.timeout(PATIENCE_S):
            await border._ready.wait()
        return hub

    async def close(self) -> None:
        for hub in self.hubs:
            hub.close()
        await until(lambda: not any(hub.connections for hub in self.hubs))


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    made = Cluster(folder)
    try:
        yield made
    finally:
        await made.close()


class Stranger:
    """A bare connection to the port of a hub."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.seen = b""

    @classmethod
    async def to(cls, hub: Connections, tls: ssl.SSLContext | None, *frames: bytes) -> Stranger:
        """
        Raises:
            OSError: the handshake failed.
        """
        made = cls(*await asyncio.open_connection(HOST, hub.address.port, ssl=tls))
        for one in frames:
            made.writer.write(one)
        return made

    async def frames(self, count: int) -> list[tuple[int, int, bytes]]:
        got: list[tuple[int, int, bytes]] = []
        framer = Framer()
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < count:
                data = await self.reader.read(65536)
                assert data, "the connection was closed"
                got += framer.feed(data)
        return got

    async def closed(self, timeout: float = PATIENCE_S) -> None:
        """Returns when the hub has closed the connection; `seen` is all that it sent."""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(OSError):
                while data := await self.reader.read(65536):
                    self.seen += data
        self.writer.close()


def shows(authority: Authority | None, node: str = "", *, alpn: str = PROTOCOL) -> ssl.SSLContext:
    """A stranger's end of TLS, with the certificate that `authority` gave `node`, or none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols([alpn])
    if authority is not None:
        made.load_cert_chain(authority.folder_of(node) / "node.pem")
    return made


def hello(
    node: str = "n2", *, says: str = "", version: int = PROTOCOL_VERSION, oldest: int = 0
) -> bytes:
    """The greeting of a process of `node`, which says that it is one of `says`."""
    address = f"{says or node}/{os.getpid()}-raw/0"
    return greet(Greeting(version, says or node, address, 1 << 20, 1, oldest))
