"""How a process of a node is started: spawn, quickly.

multiprocessing's spawn imports the starter's `__main__` and keeps a resource tracker; an
actor needs neither, and imports only its own class. Thespian's entry points are exchanged for
ours, which set the process up and then go on with Thespian's.
"""

# ruff: noqa: N802, N813  (the names are Thespian's and multiprocessing's)

from __future__ import annotations

import faulthandler
import gc
import io
import multiprocessing.context as contexts
import multiprocessing.popen_spawn_posix as popen_spawn
import multiprocessing.spawn as mp_spawn
import multiprocessing.util as mp_util
import os
import signal
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any, ClassVar, Final

import thespian.system.multiprocCommon as thespian_processes
import thespian.system.systemCommon as thespian_common

GC_THRESHOLDS: Final = (50_000, 50, 50)

# A handler written in Python never runs for these: the faulting instruction is retried first.
_FAULTS: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")


class _Popen(popen_spawn.Popen):
    """As its base, without the starter's `__main__` and without a resource tracker."""

    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        preparation = mp_spawn.get_preparation_data(process_obj._name)
        preparation.pop("init_main_from_name", None)
        preparation.pop("init_main_from_path", None)
        buffer = io.BytesIO()
        contexts.set_spawning_popen(self)
        try:
            reduction.dump(preparation, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            contexts.set_spawning_popen(None)
        parent_r = child_w = child_r = parent_w = -1
        try:
            parent_r, child_w = os.pipe()
            child_r, parent_w = os.pipe()
            self._fds.extend([child_r, child_w])
            self.pid = mp_util.spawnv_passfds(
                os.fsencode(mp_spawn.get_executable()),
                mp_spawn.get_command_line(pipe_handle=child_r),
                self._fds,
            )
            self.sentinel = parent_r
            with open(parent_w, "wb", closefd=False) as pipe:
                pipe.write(buffer.getbuffer())
        finally:
            self.finalizer = mp_util.Finalize(
                self, _close, [fd for fd in (parent_r, parent_w) if fd >= 0]
            )
            for fd in (child_r, child_w):
                if fd >= 0:
                    os.close(fd)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class SpawnedProcess(contexts.SpawnProcess):
    """A process of a node. Tells `on_start` the pid of each process that this one starts."""

    on_start: ClassVar[Callable[[SpawnedProcess], object] | None] = None

    def __init__(
        self, group: None = None, target: Any = None, name: str | None = None, args: Any = ()
    ) -> None:
        super().__init__(group, _ENTRIES.get(target, target), name, args)

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _Popen(process_obj)

    def start(self) -> None:
        super().start()
        if SpawnedProcess.on_start is not None:
            SpawnedProcess.on_start(self)


class SpawnContext(contexts.SpawnContext):
    """The multiprocessing context of a node."""

    Process = SpawnedProcess


def _set_up() -> None:
    # Thespian sleeps in the sender above 4,480 messages a second, which would stop the loop
    # and all that runs on it. Every road here has its own flow control.
    thespian_common.RATE_THROTTLE = 10**9
    faulthandler.enable()


def start_admin(admin_class: Any, *args: Any) -> None:
    """Thespian's `startAdmin`, with our Admin."""
    from actors.runtime.base import TetherAdmin

    _set_up()
    thespian_processes.startAdmin(TetherAdmin, *args)


def start_child(*args: Any) -> None:
    """Thespian's `startChild`, with our manager."""
    from actors.runtime.base import TetherManager

    _set_up()
    thespian_processes.MultiProcManager = TetherManager
    thespian_processes.startChild(*args)


def serving_now() -> None:
    """Called when a process is set up: what it has imported is kept out of every collection,
    and a fault kills it, whatever Thespian installed."""
    for name in _FAULTS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    faulthandler.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


_ENTRIES: Final[dict[Any, Any]] = {
    thespian_processes.startAdmin: start_admin,
    thespian_processes.startChild: start_child,
}
