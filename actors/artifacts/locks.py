"""Locks between the processes of a node, by flock: the kernel lets go when a holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class FileLock:
    """A lock on the file at `path`, which whoever holds it alone may remove."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def try_exclusive(self) -> bool:
        """Have it alone, if nobody else has it in any way."""
        return self._try(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def try_shared(self) -> bool:
        """Have it with others, if nobody has it alone."""
        return self._try(fcntl.LOCK_SH | fcntl.LOCK_NB)

    def wait_exclusive(self) -> None:
        """Have it alone; blocks. For what is held for moments only."""
        while not self._try(fcntl.LOCK_EX):
            continue

    def remove(self) -> None:
        """Remove the file; only while held alone. Others notice, and make a new one."""
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go. Safe twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _try(self, how: int) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, how)
                if self._is_current(descriptor):
                    self._descriptor, descriptor = descriptor, -1
                    return True
            except BlockingIOError:
                return False
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Is the file that was locked the one that others find?"""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        own = os.fstat(descriptor)
        return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)
