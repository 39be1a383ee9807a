"""The ports of a node: taken, or tried, before anything is started for them."""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

from tether.http.handover import Handover
from tether.http.listener import opened

PORT_GRACE_S: Final = 2.0


class NodePortTaken(Exception):
    """Nobody can listen there; one sentence."""


class FrontPort:
    """The port of the front doors, for as long as the node runs: it listens from the first moment,
    so nobody else can take it while models are prepared, and clients that come early wait. Doors
    are given the socket, and may end and begin as they like."""

    def __init__(self, host: str, port: int) -> None:
        """`port` 0 is any free one. Blocks as `check_free` does.

        Raises:
            PortTaken: something else listens there, or the host is not this machine.
        """
        self._sock = _listening(host, port, "http.host and http.port")
        self._handover: Handover | None = None
        self.number: int = self._sock.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.number}"

    def hand_over(self, path: str) -> None:
        """From now on doors find the socket at `path`; on the loop that runs.

        Raises:
            OSError: nobody can listen at `path`.
        """
        self._handover = Handover(self._sock, path)

    def close(self) -> None:
        """Let go of it: the port is closed when the last door has done so too. Safe to call
        twice."""
        if self._handover is not None:
            self._handover.close()
        self._sock.close()


def check_free(host: str, port: int, keys: str) -> None:
    """Look whether others could listen there; `keys` are what may be set if not. Blocks for
    `PORT_GRACE_S` at most: proc(5) stops to show the environment by which a killed process is known
    before the kernel closes its sockets.

    Raises:
        PortTaken: something listens there, or the host is not this machine.
    """
    _listening(host, port, keys).close()


def _listening(host: str, port: int, keys: str) -> socket.socket:
    until = time.monotonic() + PORT_GRACE_S
    while True:
        try:
            return opened(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                raise NodePortTaken(
                    f"nobody can listen on {host}:{port} ({error.strerror}); stop what does, or "
                    f"set {keys}"
                ) from None
        time.sleep(0.05)
