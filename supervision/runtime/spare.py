"""The inside of a spare: a process that has imported everything and waits to become an actor.

It has no socket, no loop and no thread, ends with its parent, and is told what to become by the
very bytes that a spawned process is told.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing.process as processes
import multiprocessing.spawn as mp_spawn
import os
import pickle
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from supervision.telemetry import title

WARM: Final = "tether-spare"  # its name in ps, as soon as it can be used
_COLD: Final = "tether-warming"
_NICE: Final = 15  # while it imports: it must not slow down those that work
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def wait(modules: Sequence[str], parent: int, node: str) -> None:
    """Import `modules`, wait to be told what to become, and be that. Never returns."""
    _die_with(parent)
    title.show(node, "spare")
    _show(_COLD)
    # Priorities belong to threads on Linux, and a plain user can't take one back.
    importing = threading.Thread(target=_import, args=(tuple(modules),))
    importing.start()
    importing.join()
    gc.collect()
    gc.freeze()
    above = processes.parent_process()
    assert above is not None
    pipe: int = above.sentinel  # a duplicate of the pipe by which this process was started
    _show(WARM)
    with os.fdopen(os.dup(pipe), "rb") as told:
        if not told.peek(1):
            os._exit(0)  # its parent is gone, or has no use for it
        current: Any = processes.current_process()
        current._inheriting = True
        try:
            process = receive(told)
        finally:
            del current._inheriting
    _die_with(0)
    _show("python3")
    raise SystemExit(process._bootstrap(parent_sentinel=pipe))


def receive(told: Any) -> Any:
    """The process to be, once all that it inherits is as if it had been spawned now."""
    preparation = pickle.load(told)
    environment = preparation.pop("environment")
    if environment != dict(os.environ):
        os.environ.clear()
        os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_SETMASK, preparation.pop("signal_mask"))
    os.umask(preparation.pop("umask"))
    mp_spawn.prepare(preparation)
    return pickle.load(told)


def _import(modules: tuple[str, ...]) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    for module in modules:
        # what can't be imported fails in the actor, as it does without a spare
        with suppress(Exception):
            importlib.import_module(module)


def _die_with(parent: int) -> None:
    """Get SIGKILL when the parent ends, even while stopped; 0: no more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if parent else 0, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(0)


def _show(name: str) -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)
