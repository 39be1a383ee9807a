"""A spool file: records that are on the disk before anybody goes on, and are read in their order.

It begins with `MAGIC`. A record is its length and the CRC-32 of its content, both of 32 bits,
little endian, and the content. One process writes a file, and holds a lock on it (flock) as long as
it lives; whoever gets that lock later may read the file on and remove it. A write that was cut
leaves a torn tail, which is cut off when the file is opened; a record in the middle that isn't what
was written is passed over. Everything here blocks: it belongs into a thread.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from supervision.errors import BadRequest
from supervision.security.files import sync_folder

MAGIC: Final = b"tether spool 1\n"
SUFFIX: Final = ".spool"
RECORD_MAX: Final = 1 << 16  # bytes of the content of one record
_HEAD: Final = struct.Struct("<II")
_MAKING: Final = ".new"


class SpoolPage(msgspec.Struct, frozen=True):
    """Some records of a file. `after` is where the next one begins; `damaged` are bytes between
    them that are no record."""

    records: tuple[bytes, ...]
    after: int
    damaged: int = 0


class SpoolFile:
    """An open file, locked. Its records are from `begin` to `end`."""

    def __init__(self, path: Path, number: int, end: int) -> None:
        self.path = path
        self._number = number
        self.begin = len(MAGIC)
        self.end = end

    @classmethod
    def make(cls, path: Path) -> SpoolFile:
        """A new one, readable for its owner alone. It is locked before it has its name, so nobody
        takes it for one whose writer is dead.

        Raises:
            OSError: it can't be made.
        """
        making = path.with_name(path.name + _MAKING)
        number = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(number, MAGIC, 0)
            os.fsync(number)
            making.rename(path)
            sync_folder(path.parent)
        except BaseException:
            os.close(number)
            making.unlink(missing_ok=True)
            raise
        return cls(path, number, len(MAGIC))

    @classmethod
    def take(cls, path: Path) -> tuple[SpoolFile, int] | None:
        """One whose writer is dead, and how many bytes of a torn tail were cut off it; None if its
        writer lives, or somebody has taken it.

        Raises:
            OSError: it can't be read.
            ValueError: it is no spool file.
        """
        try:
            number = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(number).st_nlink:
                raise BlockingIOError
            if os.pread(number, len(MAGIC), 0) != MAGIC:
                raise ValueError(f"{path} is no spool file of this release: it begins otherwise")
            there = os.fstat(number).st_size
            file = cls(path, number, there)
            end = len(MAGIC)
            while (page := file.read(end, 1024)).after != end:
                end = page.after
            if end < there:
                os.ftruncate(number, end)
                os.fsync(number)
            file.end = end
        except BlockingIOError:
            os.close(number)
            return None
        except BaseException:
            os.close(number)
            raise
        return file, there - end

    def append(self, records: Sequence[bytes]) -> None:
        """All of them on the disk, or none: what a failed try has left is written over by the next.

        Raises:
            BadRequest: one is empty, or above `RECORD_MAX`.
            OSError: there is no room, or the disk fails.
        """
        for record in records:
            if not 0 < len(record) <= RECORD_MAX:
                raise BadRequest(f"a record of a spool has 1 to {RECORD_MAX} bytes")
        content = b"".join(_HEAD.pack(len(r), zlib.crc32(r)) + r for r in records)
        _write(self._number, content, self.end)
        os.fdatasync(self._number)
        self.end += len(content)

    def read(self, at: int, most: int) -> SpoolPage:
        """Up to `most` records from the one that begins `at`; none where there are no more.

        Raises:
            OSError: it can't be read.
        """
        records: list[bytes] = []
        damaged = 0
        while len(records) < most and at + _HEAD.size <= self.end:
            head = os.pread(self._number, _HEAD.size, at)
            if len(head) < _HEAD.size:
                break
            length, check = _HEAD.unpack(head)
            after = at + _HEAD.size + length
            if not 0 < length <= RECORD_MAX or after > self.end:
                break
            record = os.pread(self._number, length, at + _HEAD.size)
            if zlib.crc32(record) == check:
                records.append(record)
            elif after == self.end:
                break
            else:
                damaged += after - at
            at = after
        return SpoolPage(tuple(records), at, damaged)

    def empty(self) -> None:
        """Forget all records: they are done with.

        Raises:
            OSError: the disk fails; they may be read again.
        """
        os.ftruncate(self._number, len(MAGIC))
        self.end = len(MAGIC)

    def remove(self) -> None:
        """The file, and the lock with it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it; what is in it is left for others. Safe to call twice."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1


def files(folder: Path) -> list[Path]:
    """All spool files there, oldest first by their names."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def held_bytes(folder: Path) -> int:
    """Bytes of everything in the folder of a spool.

    Raises:
        OSError: it can't be looked at.
    """
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
    return total


def _write(number: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(number, view, at)
        view, at = view[written:], at + written
