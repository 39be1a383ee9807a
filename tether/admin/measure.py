"""What processes of this machine use, as the kernel says (proc(5))."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Used(msgspec.Struct, frozen=True):
    """Seconds of processor since its start, bytes of memory that it holds, and `began`, seconds
    since the start of the machine."""

    cpu_s: float
    memory_bytes: int
    began: float


def used(pid: int) -> Used | None:
    """What a process uses; None if there is none (any more)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # from the third field on; the second may hold anything
    return Used(
        cpu_s=(int(words[11]) + int(words[12])) / _TICKS,
        memory_bytes=int(words[21]) * _PAGE,
        began=int(words[19]) / _TICKS,
    )


def age_s(began: float) -> float:
    """Seconds since `began`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def began(seconds: float) -> float:
    """What began `seconds` ago."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - seconds
