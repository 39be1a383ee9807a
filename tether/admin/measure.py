"""Measurements of this machine's processes: what they use."""

from __future__ import annotations

import time

import msgspec


class Used(msgspec.Struct, frozen=True):
    """Seconds of processor since its start, bytes of memory that it holds, and `began`, seconds
    since the start of the machine."""

    cpu_s: float
    memory_bytes: int
    began: float


def used(pid: int) -> Used | None:
    """What a process uses; None if there is none (any more)."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            cpu, memory = process.cpu_times(), process.memory_info()
            # psutil adds the machine's start, which it knows to a second: taken off, it is exact
            began = process.create_time() - psutil.boot_time()
    except psutil.Error:
        return None
    return Used(cpu_s=cpu.user + cpu.system, memory_bytes=memory.rss, began=began)


def age_s(began: float) -> float:
    """Seconds since `began`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def began(seconds: float) -> float:
    """What began `seconds` ago."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - seconds
