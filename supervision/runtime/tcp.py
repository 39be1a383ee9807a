"""TCP sockets between nodes: listening, and noticing that nobody is there any more."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from struct import Struct
from typing import Final

from supervision.runtime.routes import ListenAddress

BACKLOG: Final = 1024
# A host that is gone without a word is lost after these seconds (tcp(7)).
_SILENCE_S: Final = 15
_PROBE_S: Final = 5
# struct tcp_info of linux/tcp.h: milliseconds since data were last sent, and since they came.
_TCP_INFO: Final = Struct("=44x I 4x I")


def bound(place: ListenAddress) -> socket.socket:
    """A socket that listens at `place`, at the first of its ports that is free from a random one
    on.

    Raises:
        OSError: none is.
    """
    family, _, _, _, where = socket.getaddrinfo(
        place.host, place.first, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    count = place.last - place.first + 1
    begin = secrets.randbelow(count)
    for number in range(count):
        port = place.first + (begin + number) % count
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((where[0], port, *where[2:]))
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or number == count - 1:
                raise OSError(
                    error.errno, f"can't listen at {place.host}:{port}: {error.strerror}"
                ) from error
        else:
            return sock
    raise AssertionError("a place has a port")


def persist(sock: socket.socket) -> None:
    """Finds out within `_SILENCE_S` that the host at the other end is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _SILENCE_S // _PROBE_S - 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_S * 1000)


def silent_s(transport: asyncio.BaseTransport) -> float:
    """Seconds since the last byte went either way."""
    sock = transport.get_extra_info("socket")
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return float(min(_TCP_INFO.unpack(raw))) / 1000
