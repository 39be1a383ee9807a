"""The server process of a PostgreSQL data directory: found, waited for, signalled.

Source of the file formats: PostgreSQL's `pidfile.h` and `miscinit.c`. Linux only (pidfd).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil


class Status(StrEnum):
    """The words of `pidfile.h`."""

    STARTING = "starting"  # it starts, or recovers
    STOPPING = "stopping"  # it was told to end
    READY = "ready"  # it takes connections
    STANDBY = "standby"  # it recovers, and takes none


@dataclass(frozen=True)
class Postmaster:
    """What `postmaster.pid` says of a server that really runs. `ready` is false while it starts,
    recovers or stops; then `status` says which, and None that it hasn't said so yet."""

    pid: int
    socket_dir: str
    status: Status | None

    @property
    def ready(self) -> bool:
        """Whether it takes connections."""
        return self.status is Status.READY


def read(cluster: Path) -> Postmaster | None:
    """The living server of this data directory; None if there is none, whatever a left-over
    `postmaster.pid` says: the process of that number must work in this very directory."""
    try:
        lines = (cluster / "postmaster.pid").read_text("utf-8").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if pid <= 1 or not works_in(pid, cluster):
        return None
    lines += [""] * (8 - len(lines))
    word = lines[7].strip()
    status = Status(word) if word in set(Status) else None
    return Postmaster(pid=pid, socket_dir=lines[4], status=status)


def works_in(pid: int, cluster: Path) -> bool:
    """Whether process `pid` is a postgres whose working directory is `cluster`, as a
    postmaster's always is. False for a zombie."""
    try:
        process = psutil.Process(pid)
        return _is_postgres(process) and Path(process.cwd()).samefile(cluster)
    except (OSError, psutil.Error):
        return False


def lock_holder(lock: Path) -> tuple[int, str] | None:
    """The living postgres that holds a socket's lock file: its pid and data directory."""
    try:
        pid = int(lock.read_text("utf-8").splitlines()[0])
        process = psutil.Process(pid)
        return (pid, process.cwd()) if _is_postgres(process) else None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None


def names_a_stranger(lock: Path) -> bool:
    """Whether a lock file names a process that lives and is no postgres, or is a zombie."""
    try:
        pid = abs(int(lock.read_text("utf-8").splitlines()[0]))
        os.kill(pid, 0)
        process = psutil.Process(pid)
        return not _is_postgres(process) or process.status() == psutil.STATUS_ZOMBIE
    except (ValueError, IndexError, ProcessLookupError, FileNotFoundError, psutil.NoSuchProcess):
        return False
    except PermissionError:  # it is someone else's process
        return True


def _is_postgres(process: psutil.Process) -> bool:
    return str(process.name()).startswith("postgres")


def await_end(pid: int, timeout_s: float) -> bool:
    """Block until process `pid` has ended; False when it still runs after `timeout_s`."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))
    finally:
        os.close(watched)


async def ended(pid: int) -> None:
    """Return when process `pid` has ended; costs nothing while it runs."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(watched, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


def end(pid: int, cluster: Path, timeout_s: float) -> None:
    """Stop a server: fast (open transactions are rolled back, a checkpoint is written) within
    `timeout_s`, else at once as after a crash, else by SIGKILL. Its data survive all three."""
    deadline = time.monotonic() + timeout_s
    for number, patience in (
        (signal.SIGINT, deadline - time.monotonic()),
        (signal.SIGQUIT, 5.0),
        (signal.SIGKILL, 5.0),
    ):
        if not works_in(pid, cluster):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if await_end(pid, patience):
            return
