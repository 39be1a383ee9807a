"""Ports that a node is to listen at, tried before anything is started for them."""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

PORT_GRACE_S: Final = 2.0


class PortTaken(Exception):
    """Nobody can listen there; one sentence."""


def free_port(host: str, port: int, keys: str) -> int:
    """`port`, or a free one for 0; `keys` are what may be set. Blocks for `PORT_GRACE_S` at most:
    proc(5) stops to show the environment by which a killed process is known before the kernel
    closes its sockets.

    Raises:
        PortTaken: something listens there, or the host is not this machine.
    """
    until = time.monotonic() + PORT_GRACE_S
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                raise PortTaken(
                    f"nobody can listen on {host}:{port} ({error.strerror}); stop what does, or "
                    f"set {keys}"
                ) from None
        time.sleep(0.05)


def _bound(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])
