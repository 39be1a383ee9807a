"""The file in which a process keeps its metrics for `/metrics`, in prometheus_client's format.

prometheus_client maps a file that is longer than what the disk has set aside for it, so that on a
full disk a process dies of SIGBUS at its first new metric. Here nothing is mapped that the disk
hasn't promised (posix_fallocate; in place on btrfs, which would need new room for every change).
Where it promises nothing, values are kept in memory alone, and moved to the file when there is
room, which is tried once a second, at the next change of any metric. Until then `/metrics` lacks
what this process counts, and it is lost if the process ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from prometheus_client import multiprocess, values
from prometheus_client.mmap_dict import MmapedDict

from supervision.telemetry import disk

AGAIN_S: Final = 1.0  # between two attempts to move to the file
WHAT: Final = "metrics"
_FIRST: Final = 1 << 14  # bytes at first, doubled whenever they are full
_HEAD: Final = 8  # bytes before the first entry: how many are in use
_ENTRY: Final = 64  # more than an entry takes beside its key
_GET_FLAGS, _SET_FLAGS, _NO_COPY = 0x80086601, 0x40086602, 0x00800000  # ioctl_iflags(2)

Entry = tuple[str, float, float, int]  # key, value, timestamp, position

_pack_value = struct.Struct("dd").pack


class MetricFile(MmapedDict):
    """Used by prometheus_client under its own lock, in place of its `MmapedDict`."""

    _late: ClassVar[set[MetricFile]] = set()  # those in memory alone
    _again: ClassVar[float] = 0.0  # when they are tried next (monotonic)
    _m: mmap.mmap | bytearray  # type: ignore[assignment]

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._fname = filename
        self._positions: dict[str, int] = {}
        self._used = _HEAD
        self._m = bytearray(_FIRST)
        self._capacity = _FIRST
        with suppress(OSError):
            self._take_up(read(filename))
        struct.pack_into("i", self._m, 0, self._used)
        self._move()

    def _take_up(self, content: bytes) -> None:
        """Go on from what a process that had our pid has counted."""
        found = entries(content)
        if found:
            self._used = found[-1][3] + 16
            self._positions = {key: position for key, _, _, position in found}
            self._m[: self._used] = content[: self._used]
            self._extend(self._used)

    # ---- what prometheus_client calls

    def _init_value(self, key: str) -> None:
        self._extend(self._used + len(key.encode()) + _ENTRY)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        if self._late:
            self._catch_up()
        position = self._positions.get(key)
        if position is None:
            self._init_value(key)
            position = self._positions[key]
        self._m[position : position + 16] = _pack_value(value, timestamp)

    def close(self) -> None:
        self._late.discard(self)
        if isinstance(self._m, mmap.mmap):
            self._m.close()
        self._m = bytearray()

    @staticmethod
    def read_all_values_from_file(filename: str) -> Iterator[Entry]:
        """All entries of a file, which may be empty or cut off.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return iter(entries(read(filename)))

    # ---- where the values are

    def _extend(self, size: int) -> None:
        """Have room for `size` bytes."""
        if size <= self._capacity:
            return
        while size > self._capacity:
            self._capacity *= 2
        held = self._m
        self._m = bytearray(held) + bytes(self._capacity - len(held))
        if self not in self._late:
            self._move()

    def _move(self) -> None:
        """Keep the values in the file if the disk promises to hold all of it."""
        try:
            descriptor = os.open(self._fname, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _change_in_place(descriptor)
                os.posix_fallocate(descriptor, 0, self._capacity)
                mapped = mmap.mmap(descriptor, self._capacity)
            finally:
                os.close(descriptor)
        except OSError as error:
            MetricFile._again = time.monotonic() + AGAIN_S
            self._late.add(self)
            disk.unwritten(WHAT, error)
            return
        mapped[_HEAD : self._used] = bytes(self._m[_HEAD : self._used])
        mapped[:_HEAD] = bytes(self._m[:_HEAD])  # last: a reader goes by it
        self._m = mapped
        self._late.discard(self)

    @classmethod
    def _catch_up(cls) -> None:
        """Move all to their files, unless that was tried just now."""
        if time.monotonic() < cls._again:
            return
        for file in list(cls._late):
            file._move()
            if file in cls._late:
                return
        disk.written(WHAT)


def read(filename: str) -> bytes:
    """All of a file."""
    return Path(filename).read_bytes()


def entries(content: bytes) -> list[Entry]:
    """What is whole of a file's content; nothing if it isn't such a file."""
    if len(content) < _HEAD:
        return []
    used = min(len(content), struct.unpack_from("i", content)[0])
    found: list[Entry] = []
    begin = _HEAD
    while begin + 4 <= used:
        (size,) = struct.unpack_from("i", content, begin)
        position = begin + 4 + size + (8 - (size + 4) % 8)  # blanks align the value
        if size <= 0 or position + 16 > used:
            break
        try:
            key = content[begin + 4 : begin + 4 + size].decode()
        except UnicodeDecodeError:
            break
        value, timestamp = struct.unpack_from("dd", content, position)
        found.append((key, value, timestamp, position))
        begin = position + 16
    return found


def _change_in_place(descriptor: int) -> None:
    """Have a file system that writes changes elsewhere (btrfs) write those of this empty file over
    what is there. Others don't know that flag, or don't mind."""
    with suppress(OSError):
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
        if not flags & _NO_COPY:
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _NO_COPY))


def install() -> None:
    """From now on prometheus_client keeps the values of new metrics in such files."""
    values.MmapedDict = MetricFile  # type: ignore[attr-defined]
    multiprocess.MmapedDict = MetricFile  # type: ignore[attr-defined]
