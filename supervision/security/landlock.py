"""Landlock: a process gives up what it doesn't need of files, TCP and signals, for ever (Linux).

By its three system calls (landlock(7), linux/landlock.h): libc has no functions for them. What a
kernel can't forbid yet isn't forbidden; `Rights` says what is. It binds the calling thread and all
that come of it, so it is called before there are others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from enum import IntFlag
from pathlib import Path
from typing import Final

import msgspec

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on all machines
_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION
_BENEATH, _PORT = 1, 2  # LANDLOCK_RULE_PATH_BENEATH, LANDLOCK_RULE_NET_PORT
_NO_NEW_PRIVS: Final = 38  # prctl(2)


class Files(IntFlag):
    """LANDLOCK_ACCESS_FS_*"""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5


READ: Final = Files.READ_FILE | Files.READ_DIR
RUN: Final = READ | Files.EXECUTE
WRITE: Final = (
    READ
    | Files.WRITE_FILE
    | Files.REMOVE_DIR
    | Files.REMOVE_FILE
    | Files.MAKE_DIR
    | Files.MAKE_REG
    | Files.MAKE_SYM
    | Files.REFER
    | Files.TRUNCATE
)
DEVICE: Final = READ | Files.WRITE_FILE | Files.IOCTL_DEV
_OF_FILES: Final = (
    Files.EXECUTE | Files.WRITE_FILE | Files.READ_FILE | Files.TRUNCATE | Files.IOCTL_DEV
)
_BIND_TCP, _CONNECT_TCP = 1, 2  # LANDLOCK_ACCESS_NET_*, ABI 4
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2  # LANDLOCK_SCOPE_*, ABI 6


class Allowed(msgspec.Struct, frozen=True):
    """What remains: files beneath these paths, which may be read; read and run; read and written;
    used as devices. `listens`: on TCP ports of the kernel's choice; it connects to nobody. A path
    that isn't there is left out."""

    read: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    listens: bool = False

    def rules(self) -> Iterator[tuple[str, Files]]:
        """Each path, with what may be done beneath it."""
        for paths, rights in (
            (self.read, READ),
            (self.run, RUN),
            (self.write, WRITE),
            (self.devices, DEVICE),
        ):
            for path in paths:
                yield path, rights


class _Attr(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _NetPort(ctypes.Structure):
    _fields_ = [("access", ctypes.c_uint64), ("port", ctypes.c_uint64)]


def abi() -> int:
    """Which version of it the kernel has; 0 if none, or it is off."""
    try:
        return _call(_CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(allowed: Allowed) -> tuple[str, ...]:
    """Give up everything but `allowed`, and say what is forbidden from now on: files; TCP;
    signals to others; abstract sockets.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    version = abi()
    if not version:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock, or it is off")
    files = handled(version)
    attr = _Attr(files, _BIND_TCP | _CONNECT_TCP, _ABSTRACT_SOCKETS | _SIGNALS)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(_CREATE, ctypes.byref(attr), size, 0)
    try:
        for path, rights in allowed.rules():
            _allow(ruleset, path, rights & files)
        if allowed.listens and version >= 4:
            _call(_ADD, ruleset, _PORT, ctypes.byref(_NetPort(_BIND_TCP, 0)), 0)
        _prctl(_NO_NEW_PRIVS, 1)
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    ports = "tcp but listening on ports of the kernel's choice"
    return tuple(ports if one == "tcp" and allowed.listens else one for one in named(version))


def handled(version: int) -> Files:
    """What of files an ABI of this version can forbid."""
    files = Files(0)
    for right in Files:
        since = {Files.REFER: 2, Files.TRUNCATE: 3, Files.IOCTL_DEV: 5}.get(right, 1)
        if version >= since:
            files |= right
    return files


def named(version: int) -> Iterable[str]:
    """What an ABI of this version forbids, in words."""
    yield "files"
    if version >= 4:
        yield "tcp"
    if version >= 6:
        yield "signals"


def missing() -> tuple[str, ...]:
    """What of that this kernel can't forbid, though it has Landlock."""
    version = abi()
    return tuple(set(named(6)) - set(named(version))) if version else ()


def _allow(ruleset: int, path: str, rights: Files) -> None:
    try:
        parent = os.open(Path(path), os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        rule = _PathBeneath(int(rights), parent)
        _call(_ADD, ruleset, _BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    answer = int(libc.syscall(ctypes.c_long(number), *map(_word, arguments)))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return answer


def _word(argument: object) -> object:
    """Integers of variadic functions are as wide as registers."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
