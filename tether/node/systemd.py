"""Notifications to systemd of how the node is (sd_notify(3)), when it wants to know."""

from __future__ import annotations

import os
import socket

from supervision.telemetry import logs

log = logs.get(__name__)


class Notifier:
    """Takes `NOTIFY_SOCKET` out of the environment, so that no other process of the node speaks
    for it. Does nothing where there is none."""

    def __init__(self) -> None:
        self._where = os.environ.pop("NOTIFY_SOCKET", "")

    def tell(self, *words: str) -> None:
        """Words such as `READY=1`, `STOPPING=1`, `STATUS=…`."""
        if not self._where:
            return
        address = self._where
        if address.startswith("@"):  # an abstract one, unix(7)
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(address)
                sock.send("\n".join(words).encode())
        except OSError as error:
            log.warning("systemd doesn't listen", error=str(error))
