"""The listener of a front door that speaks TLS: HTTP begins when a handshake is over.

Whoever has not ended one is a stranger. Handshakes are bounded in number and time; where there are
too many, the oldest one gives way of that address which has most under way: an honest one takes
milliseconds, and those of other addresses go on. Who speaks plain HTTP is told so, and gets nothing
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final

from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog
from tether.http import metrics

MAX_HANDSHAKES: Final = 512
HANDSHAKE_S: Final = 10.0
#: In the kernel, of one connection. uvloop has room for 256 KiB of TLS at three places of each, and
#: fills as much of it as has come at once.
RECEIVED_BYTES: Final = 64 << 10
CLOSE_S: Final = 10.0  # for a client to take the last bytes and say that it closes too
_AT_ONCE: Final = 16  # that are accepted in one turn of the loop
_PAUSE_S: Final = 0.1  # after an accept that failed, for want of descriptors

_LEAST_S: Final = 0.001
_PLAIN_S: Final = 2.0  # for who speaks plain HTTP to read its answer
_PLAIN_BYTES, _PLAIN_READS = 16 << 10, 64  # what it may send meanwhile: it is thrown away
_WHY: Final = b"the plain HTTP request was sent to an HTTPS port\n"
_PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_WHY), _WHY)
)

heard = BoundedLog(__name__)
_used = bounds.used.labels("door_handshakes")
_refused = bounds.refused.labels("door_handshakes")
_results = {
    result: metrics.handshakes.labels(result)
    for result in ("good", "refused", "timeout", "crowded_out", "left")
}

Handshake = asyncio.Task[None]


class TlsListener:
    """Accepts from `sock`, which it closes, from `start` on.

    Args:
        context: gives that by which the next connection is made.
        protocol: makes what speaks within.
        most: handshakes that may be under way.
        timeout_s: for one, in seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        protocol: Callable[[], asyncio.Protocol],
        *,
        most: int = MAX_HANDSHAKES,
        timeout_s: float = HANDSHAKE_S,
    ) -> None:
        self._sock = sock
        self._context = context
        self._protocol = protocol
        self._timeout_s = timeout_s
        self._under_way = Handshakes(most)
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections from now on."""
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accept nothing any more; handshakes go on. Safe to call twice."""
        if self._sock.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def end(self) -> None:
        """Accept nothing any more, and end the handshakes that there are. Safe to call twice."""
        self.close()
        self._under_way.end()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # who came has left already
                continue
            except OSError as error:
                heard.warning("can't accept a connection", "", error=str(error))
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE_S, self.start)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)
            self._under_way.add(self._loop.create_task(self._shake(sock)), origin_of(address[0]))

    async def _shake(self, sock: socket.socket) -> None:
        ends_at = self._loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(ends_at):
                plain = await self._speaks_plainly(sock)
                if plain:
                    _results["refused"].inc()
                    await self._answer(sock)
                    sock.close()
                    return
            await self._loop.connect_accepted_socket(
                self._protocol,
                sock,
                ssl=self._context(),
                ssl_handshake_timeout=max(_LEAST_S, ends_at - self._loop.time()),
                ssl_shutdown_timeout=CLOSE_S,
            )
        except OSError as error:
            _results[_result(error)].inc()
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            _results["good"].inc()

    async def _speaks_plainly(self, sock: socket.socket) -> bool:
        """Whether who came begins with a letter, as a request of HTTP does, and no record of TLS.
        Nothing is taken from the socket.

        Raises:
            OSError: the connection is lost, or closed before its first byte.
        """
        while True:
            try:
                first = sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                await self._something(sock)
                continue
            if not first:
                raise ConnectionResetError
            return first.isalpha()

    async def _something(self, sock: socket.socket) -> None:
        """Returns when there is something to read."""
        there = asyncio.Event()
        self._loop.add_reader(sock, there.set)
        try:
            await there.wait()
        finally:
            self._loop.remove_reader(sock)

    async def _answer(self, sock: socket.socket) -> None:
        """Says what is wrong, and waits until it is read: what is left unread when a socket is
        closed takes the answer with it."""
        await self._loop.sock_sendall(sock, _PLAIN)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PLAIN_S):
                for _ in range(_PLAIN_READS):
                    if not await self._loop.sock_recv(sock, _PLAIN_BYTES):
                        return


class Handshakes:
    """Handshakes under way, `most` at most, each of an origin (`origin_of`)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[Handshake, str] = {}  # oldest first
        self._count: Counter[str] = Counter()

    def add(self, handshake: Handshake, origin: str) -> None:
        """Another one; if there are too many, one of them gives way."""
        if len(self._of) >= self._most:
            most = self._count.most_common(1)[0][0]
            oldest = next(one for one, of in self._of.items() if of == most)
            _refused.inc()
            _results["crowded_out"].inc()
            self._leave(oldest)
            oldest.cancel()
        self._of[handshake] = origin
        self._count[origin] += 1
        _used.inc()
        handshake.add_done_callback(self._leave)

    def end(self) -> None:
        """Cancel all."""
        for handshake in list(self._of):
            handshake.cancel()

    def _leave(self, handshake: Handshake) -> None:
        origin = self._of.pop(handshake, None)
        if origin is None:
            return  # it has given way before
        _used.dec()
        self._count[origin] -= 1
        if not self._count[origin]:
            del self._count[origin]


def origin_of(host: str) -> str:
    """An address, or all of those that one customer of IPv6 has: its /64."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def _result(error: OSError) -> str:
    """What came of a handshake that failed, as a label."""
    if isinstance(error, ssl.SSLError):
        return "left" if isinstance(error, ssl.SSLEOFError) else "refused"
    # within the handshake asyncio and uvloop say that the time is over by ConnectionAbortedError
    return "timeout" if isinstance(error, ConnectionAbortedError | TimeoutError) else "left"
