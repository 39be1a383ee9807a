"""The processes of a node, known by a word in their environment.

Thespian's Admin leaves the process group of its starter (it forks twice), so neither group nor
parent tells what belongs to a node. All its processes inherit `TETHER_NODE_HOME`, though, and show
it to whoever may look: titles leave the environment alone (`supervision/telemetry/title.py`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "TETHER_NODE_HOME"
_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_STEP_S: Final = 0.05


def adopt_orphans() -> None:
    """Make this process the parent of all descendants whose own parent ends (Linux): they are
    reaped here, and what asked for a signal at its parent's death gets it at this one's.

    Raises:
        OSError: the kernel has no subreapers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def of_home(home: Path) -> Iterator[int]:
    """The pids of all other living processes of the node at `home` that this user may see."""
    return (process.pid for process in _of_home(home))


def reap() -> None:
    """Collect the adopted children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end_all(home: Path, *, grace_s: float) -> list[int]:
    """Ask all processes of the node at `home` to end (SIGTERM), kill what is left after `grace_s`
    seconds, and return the pids that had to be killed. Blocks for `grace_s` and a second at most.
    """
    pids = _signal_all(home, signal.SIGTERM)
    if not pids:
        return []
    if _gone(home, grace_s):
        return []
    killed = _signal_all(home, signal.SIGKILL)
    _gone(home, 1.0)
    return killed


def _signal_all(home: Path, number: signal.Signals) -> list[int]:
    pids = []
    for process in _of_home(home):
        with suppress(psutil.Error):
            process.send_signal(number)
            pids.append(process.pid)
    return pids


def _of_home(home: Path) -> Iterator[psutil.Process]:
    found: set[int] = set()
    for process in psutil.process_iter():  # by pid, so parents come before most of their children
        with suppress(psutil.Error):  # it ended just now, or belongs to somebody else
            if process.pid == os.getpid():
                continue
            # Who writes its title over its environment (Valkey) is known by its parent.
            if process.environ().get(MARK) == str(home) or process.ppid() in found:
                found.add(process.pid)
                yield process


def _gone(home: Path, timeout_s: float) -> bool:
    """Wait until no process of `home` is left; false when some are after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while True:
        reap()
        if next(of_home(home), None) is None:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_STEP_S)
