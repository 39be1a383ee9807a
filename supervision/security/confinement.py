"""The confinement of a process that computes on what strangers send: it gives up, for ever, what it
doesn't need. Linux; each fence that a kernel hasn't is named, and the others stand.

- Landlock: files but those it needs, TCP, signals to other processes
- seccomp: new sockets, tracing, mounts, keys, and whatever else of the kernel it has no use for
- no new privileges; of root's capabilities only those that get past the modes of files, which
  Landlock fences
- no core file, and no other process of the same user may trace it or look into its memory
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from supervision.security import landlock, seccomp
from supervision.security.landlock import Allowed

_NO_NEW_PRIVS, _DUMPABLE, _DROP_BOUNDING, _AMBIENT, _CLEAR = 38, 4, 24, 47, 4  # prctl(2)
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION: Final = 0x20080522
_KEPT: Final = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class Fences(msgspec.Struct, frozen=True):
    """Which fences stand, and which don't, with the reason."""

    holds: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


def confine(allowed: Allowed) -> Fences:
    """Give up all but `allowed`. Called before there is a second thread."""
    holds: list[str] = []
    lacks: list[str] = []

    def fence(name: str, put_up: Callable[[], object]) -> None:
        try:
            what = put_up()
        except OSError as error:
            lacks.append(f"{name} ({error.strerror or error})")
        else:
            holds.append(f"{name} ({', '.join(what)})" if isinstance(what, tuple) else name)

    fence("no core files", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
    fence("no new privileges", lambda: _prctl(_NO_NEW_PRIVS, 1))
    if os.geteuid() == 0:
        fence("no capabilities", _drop_capabilities)
    fence("landlock", lambda: _landlock(allowed))
    if missing := landlock.missing():
        lacks.append(f"landlock of {', '.join(missing)} (this kernel is too old)")
    fence("untraceable", lambda: _prctl(_DUMPABLE, 0))
    fence("seccomp", lambda: seccomp.install(seccomp.program(tcp=allowed.listens)))
    return Fences(tuple(holds), tuple(lacks))


def _landlock(allowed: Allowed) -> tuple[str, ...]:
    if (threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
        raise OSError(0, f"there are {threads} threads already")
    return landlock.restrict(allowed)


def _drop_capabilities() -> None:
    """Of the bounding set too: who runs a program as root gets that."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if not _KEPT >> number & 1:
            _prctl(_DROP_BOUNDING, number)
    _prctl(_AMBIENT, _CLEAR)
    number = _CAPSET.get(os.uname().machine, 0)
    if not number:
        raise OSError(0, f"unknown machine {os.uname().machine}")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)(_KEPT, _KEPT, 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), ctypes.byref(header), ctypes.byref(data)):
        raise _failed()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        raise _failed()


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
