"""The ports of a node: taken, or tried, before anything is started for them."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Final

from tether.config import Config
from tether.http.handover import Handover
from tether.http.listener import opened

PORT_GRACE_S: Final = 2.0


class NodePortTaken(Exception):
    """Nobody can listen there; one sentence."""


class HeldPort:
    """A port for as long as the node runs: it listens from the first moment, so nobody else can
    take it while models are prepared, and clients that come early wait. Those that serve there are
    given the socket, and may end and begin as they like."""

    def __init__(self, host: str, port: int, keys: str, *, scheme: str = "http") -> None:
        """`port` 0 is any free one; `keys` are what may be set to another. Blocks as `check_free`
        does.

        Raises:
            NodePortTaken: something else listens there, or the host is not this machine.
        """
        self._sock = _listening(host, port, keys)
        self._handover: Handover | None = None
        self.number: int = self._sock.getsockname()[1]
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.number}"

    def hand_over(self, path: str, kept: Callable[[], bytes] | None = None) -> None:
        """From now on the socket is found at `path`, and what `kept` gives with it; on the loop
        that runs.

        Raises:
            OSError: nobody can listen at `path`.
        """
        self._handover = Handover(self._sock, path, kept)

    def close(self) -> None:
        """Let go of it: the port is closed when the last that serves there has done so too. Safe to
        call twice."""
        if self._handover is not None:
            self._handover.close()
        self._sock.close()


def front_port(config: Config) -> HeldPort:
    """That of the front doors.

    Raises:
        NodePortTaken: see `HeldPort`.
    """
    http = config.http
    scheme = "https" if http.tls else "http"
    return HeldPort(http.host, http.port, "http.host and http.port", scheme=scheme)


def metrics_port(config: Config) -> HeldPort | None:
    """That of the node's metrics; None where they aren't shown.

    Raises:
        NodePortTaken: see `HeldPort`.
    """
    place = config.node.metrics_place
    if place is None:
        return None
    return HeldPort(*place, "node.metrics (port 0 picks a free one, empty shows nothing)")


def check_free(host: str, port: int, keys: str) -> None:
    """Look whether others could listen there; `keys` are what may be set if not. Blocks for
    `PORT_GRACE_S` at most: proc(5) stops to show the environment by which a killed process is known
    before the kernel closes its sockets.

    Raises:
        NodePortTaken: something listens there, or the host is not this machine.
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
