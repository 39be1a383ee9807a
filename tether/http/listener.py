"""The listening socket of front doors."""

from __future__ import annotations

import socket

from supervision.errors import Unavailable

BACKLOG = 4096
UNREAD_MS = 120_000  # a client that takes nothing for so long is cut off
_CONNECTION = (  # inherited by every connection, tcp(7)
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS),
)


class PortTaken(Unavailable):
    code = "port_taken"


def listen(host: str, port: int, *, share: bool) -> socket.socket:
    """As `opened`, for a door that nobody hands a socket over to.

    Raises:
        PortTaken: something else listens there, or the address is not of this machine.
    """
    try:
        return opened(host, port, share=share)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what does, or set "
            "http.host and http.port to other ones"
        ) from None


def opened(host: str, port: int, *, share: bool = False) -> socket.socket:
    """A listening TCP socket, non-blocking.

    With `share` several processes of one user may listen on one port, and the kernel spreads
    the connections (SO_REUSEPORT, socket(7)).

    Raises:
        OSError: something else listens there, or the address is not of this machine.
    """
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in _CONNECTION:
            sock.setsockopt(*option)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
