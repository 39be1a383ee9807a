"""The listening socket of a front door."""

from __future__ import annotations

import socket

from tether.errors import Unavailable

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
    """A listening TCP socket, non-blocking.

    With `share` several processes of one user may listen on one port, and the kernel spreads
    the connections (SO_REUSEPORT, socket(7)).

    Raises:
        PortTaken: something else listens there, or the address is not of this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise PortTaken(f"cannot listen on {host}: {error.strerror}; set http.host") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in _CONNECTION:
            sock.setsockopt(*option)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what does, or set "
            "http.port to another one"
        ) from None
    return sock


def free_port(host: str, port: int) -> int:
    """`port` if nobody listens there, or a free one for 0. For whoever starts several doors on
    one port: each of them would share it with a stranger of the same user in silence.

    Raises:
        PortTaken: as `listen`.
    """
    with listen(host, port, share=False) as sock:
        return int(sock.getsockname()[1])
