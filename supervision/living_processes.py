"""The living processes of a node's tree, in start order, as the kernel knows them.

Every process of a tree holds a read lock (fcntl(2), F_SETLK) on one byte of a file: that of its
place. Nobody need be alive to tell who else is: a lock ends with its process, however that ends,
and F_GETLK names one that is in the way. Locks aren't inherited, so no subprocess holds a place.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervision.tree_position import END, ROOT

_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, len


class LivingProcesses:
    """The file of the tree whose root supervisor has the socket name `root`, in the folder of the
    node's sockets. Opened once a process: closing any descriptor of it lets go of its place.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, run_dir: str | Path, node: str, root: str) -> None:
        path = Path(run_dir) / node / f"order.{root}"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def stand(self, offset: int) -> None:
        """Take a place; any number of processes may share it."""
        self._lock(fcntl.F_RDLCK, offset)

    def leave(self, offset: int) -> None:
        """Give it up before the process ends."""
        self._lock(fcntl.F_UNLCK, offset)

    def standing(self, begin: int, end: int = END) -> dict[int, int]:
        """The places in [begin, end) that others hold, and for each the pid of one who does."""
        found: dict[int, int] = {}
        spans = [(begin, end)]
        while spans:
            begin, end = spans.pop()
            if begin >= end:
                continue
            query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, begin, end - begin, 0)
            kind, _, start, _, pid = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_GETLK, query))
            if kind == fcntl.F_UNLCK:
                continue
            found[start] = pid
            spans += [(begin, start), (start + 1, end)]
        return found

    @property
    def has_root(self) -> bool:
        """Does the root supervisor stand, so that who dies is replaced?"""
        return bool(self.standing(ROOT.offset, ROOT.offset + 1))

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1

    def _lock(self, kind: int, offset: int) -> None:
        request = _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0)
        fcntl.fcntl(self._file, fcntl.F_SETLK, request)
