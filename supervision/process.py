"""The operating system's side of a child: one process, held by a descriptor that can't be
mistaken for another process when its number is used again (pidfd_open(2))."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from supervision.runtime import Address


class ChildProcess:
    """Calls `ended` once when the process is gone; `close` forgets it. Linux only.

    Raises:
        ProcessLookupError: there is no such process any more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pid: int, ended: Callable[[], object]
    ) -> None:
        self.pid = pid
        self._loop = loop
        self._ended = ended
        self._descriptor = os.pidfd_open(pid)
        loop.add_reader(self._descriptor, self._readable)

    def kill(self) -> None:
        """Send SIGKILL; no error if it is gone."""
        if self._descriptor >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the descriptor; may be called twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        self.close()
        self._ended()


class PlacedProcess:
    """A child's process at another node: it is killed by that node's Admin, and held to be gone as
    soon as it was, for nobody here can look. `kill_there` is told its address."""

    def __init__(
        self,
        address: Address,
        kill_there: Callable[[Address], object],
        ended: Callable[[], object],
    ) -> None:
        self.pid = address.pid
        self._address = address
        self._kill_there = kill_there
        self._ended = ended
        self._closed = False

    def kill(self) -> None:
        """Have it killed; no error if it is gone."""
        if not self._closed:
            self.close()
            self._kill_there(self._address)
            self._ended()

    def close(self) -> None:
        """Forget it; may be called twice."""
        self._closed = True
