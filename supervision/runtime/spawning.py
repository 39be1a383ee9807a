"""Spawning of a node's processes, quickly.

multiprocessing's spawn imports the starter's `__main__` and keeps a resource tracker; an
actor needs neither, and imports only its own class. Thespian's entry points are exchanged for
those that `SpawnedProcess.entries` has in their place.
"""

# ruff: noqa: N802, N813  (the names are Thespian's and multiprocessing's)

from __future__ import annotations

import asyncio
import errno
import faulthandler
import fcntl
import gc
import io
import multiprocessing.context as contexts
import multiprocessing.popen_spawn_posix as popen_spawn
import multiprocessing.process as processes
import multiprocessing.spawn as mp_spawn
import multiprocessing.util as mp_util
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import reduction
from typing import Any, ClassVar, Final

import thespian.system.logdirector as thespian_logger
import thespian.system.multiprocCommon as thespian_processes
import thespian.system.systemCommon as thespian_common

from supervision.runtime.options import NodeOptions
from supervision.runtime.spare import wait as wait_as_spare
from supervision.runtime.spares import Spares
from supervision.telemetry import logs, title

log = logs.get(__name__)

MAX_STARTING: Final = max(2, os.cpu_count() or 1) + 1  # at once, of one parent
MAX_STARTING_S: Final = 15.0  # after which a process that isn't up holds the others up no longer
GC_THRESHOLDS: Final = (50_000, 50, 50)

# A handler written in Python never runs for these: the faulting instruction is retried first.
_FAULTS: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")


class _Popen(popen_spawn.Popen):
    """As its base, without the starter's `__main__` and without a resource tracker."""

    _fds: list[int]
    pipe: int  # our end of it; a spare reads from it a second time

    def _launch(self, process_obj: Any) -> None:
        preparation = _preparation(process_obj)
        told = _dumped(self, preparation, process_obj)
        parent_r = child_w = child_r = parent_w = -1
        try:
            parent_r, child_w = os.pipe()
            child_r, parent_w = os.pipe()
            self._fds.extend([child_r, child_w])
            self.pid = mp_util.spawnv_passfds(
                os.fsencode(mp_spawn.get_executable()),
                # the last word is room for a title, and nobody reads it
                [*mp_spawn.get_command_line(pipe_handle=child_r), " " * title.ROOM],
                self._fds,
            )
            self.sentinel = parent_r
            self.pipe = parent_w
            with open(parent_w, "wb", closefd=False) as pipe:
                pipe.write(told)
        finally:
            self.finalizer = mp_util.Finalize(
                self, _close, [fd for fd in (parent_r, parent_w) if fd >= 0]
            )
            for fd in (child_r, child_w):
                if fd >= 0:
                    os.close(fd)


class _NoDescriptors:
    """A process that runs already can't be given any."""

    @staticmethod
    def duplicate_for_child(descriptor: int) -> int:
        raise ValueError(f"descriptor {descriptor} can't be given to a process that runs already")


def _preparation(process: Any) -> dict[str, Any]:
    preparation = mp_spawn.get_preparation_data(process._name)
    preparation.pop("init_main_from_name", None)
    preparation.pop("init_main_from_path", None)
    return preparation


def _dumped(popen: Any, preparation: dict[str, Any], process: Any) -> memoryview:
    buffer = io.BytesIO()
    contexts.set_spawning_popen(popen)
    try:
        reduction.dump(preparation, buffer)
        reduction.dump(process, buffer)
    finally:
        contexts.set_spawning_popen(None)
    return buffer.getbuffer()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class SpawnedProcess(contexts.SpawnProcess):
    """A process of a node. Tells `on_start` of each process that this one starts.

    Actors are started a few at a time: a hundred interpreters that start at once on two cores
    would all be late, and one after the other the first is up at once. `start` returns before
    the process exists if its turn has not come; it counts as alive then, and has no pid.
    """

    on_start: ClassVar[Callable[[SpawnedProcess], object] | None] = None
    entries: ClassVar[dict[Any, Callable[..., None]]] = {}  # by those of Thespian's
    spares: ClassVar[Spares | None] = None  # of which actors are made, if this process keeps any
    _popen: _Popen | None
    _waiting: ClassVar[deque[SpawnedProcess]] = deque()
    _starting: ClassVar[set[SpawnedProcess]] = set()

    def __init__(
        self, group: None = None, target: Any = None, name: str | None = None, args: Any = ()
    ) -> None:
        super().__init__(group, self.entries.get(target, target), name, args)
        self._takes_turns = target is thespian_processes.startChild

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        if process_obj._takes_turns and SpawnedProcess.spares is not None:
            spare = SpawnedProcess.spares.take(_becoming(process_obj))
            if spare is not None:
                return spare._popen
        return _Popen(process_obj)

    @classmethod
    def keep_spares(
        cls, loop: asyncio.AbstractEventLoop, options: NodeOptions, modules: Iterable[str]
    ) -> None:
        """From now on actors are made of processes that have imported `modules` and wait, as many
        as the node's options say. Called again with other modules: exchanges them."""
        wanted = {*modules, *options.spare_modules, "supervision.runtime", "uvloop"}
        if not options.warm_spares or (cls.spares is not None and cls.spares.have(wanted)):
            return
        cls.drop_spares()
        spawn = partial(cls.ahead, options.node)
        cls.spares = Spares(loop, options.warm_spares, wanted, spawn)

    @classmethod
    def drop_spares(cls) -> None:
        """End those that there are, and keep none any more."""
        spares, cls.spares = cls.spares, None
        if spares is not None:
            spares.close()

    @classmethod
    def ahead(cls, node: str, modules: tuple[str, ...]) -> SpawnedProcess:
        """A process of `node` that imports `modules` and waits for `tell`.

        Raises:
            OSError: no process or descriptor is left.
        """
        process = cls(target=wait_as_spare, name="Spare", args=(modules, os.getpid(), node))
        contexts.SpawnProcess.start(process)
        return process

    def tell(self, told: bytes | memoryview) -> None:
        """Says to a spare what it is.

        Raises:
            OSError: it has ended, or its pipe is too small to take it all at once.
        """
        assert self._popen is not None
        if fcntl.fcntl(self._popen.pipe, fcntl.F_GETPIPE_SZ) < len(told):
            raise OSError(errno.ENOBUFS, "the pipe to a spare is too small")
        os.write(self._popen.pipe, told)

    def start(self) -> None:
        ready = self.spares is not None and self.spares.ready
        if self._takes_turns and not ready and len(self._starting) >= MAX_STARTING:
            self._waiting.append(self)
            processes._children.add(self)  # type: ignore[attr-defined]  # Thespian removes it
        else:
            self._launch()

    def _launch(self) -> None:
        if self._takes_turns:
            self._starting.add(self)
        super().start()
        if SpawnedProcess.on_start is not None:
            SpawnedProcess.on_start(self)

    def settled(self) -> None:
        """It is up, or gone, or has taken too long: the next one may start."""
        self._starting.discard(self)
        while self._waiting and len(self._starting) < MAX_STARTING:
            follower = self._waiting.popleft()
            try:
                follower._launch()
            except OSError as error:  # no process or descriptor left; its parent will see it
                log.error("a process could not be started", error=str(error))
                self._starting.discard(follower)
                continue
            processes._children.discard(follower)  # type: ignore[attr-defined]

    @classmethod
    def forget_waiting(cls) -> None:
        """None of those whose turn has not come is wanted any more."""
        cls._waiting.clear()

    def abandon(self) -> None:
        """Kills it, or takes it off the queue."""
        if self in self._waiting:
            self._waiting.remove(self)
        elif self.pid is not None and super().is_alive():
            self.kill()

    def is_alive(self) -> bool:
        return self in self._waiting or (self._popen is not None and super().is_alive())

    def join(self, timeout: float | None = None) -> None:
        if self._popen is not None:
            super().join(timeout)


class SpawnContext(contexts.SpawnContext):
    """The multiprocessing context of a node."""

    Process = SpawnedProcess


def _becoming(process: Any) -> memoryview:
    """What a spare must be told to be `process`: all that it would inherit if it was spawned."""
    preparation = _preparation(process)
    umask = os.umask(0)
    os.umask(umask)
    preparation |= {
        "environment": dict(os.environ),
        "signal_mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "umask": umask,
    }
    return _dumped(_NoDescriptors, preparation, process)


def set_up() -> None:
    """Called first in a process that was started, before Thespian's own code runs."""
    # Thespian sleeps in the sender above 4,480 messages a second, which would stop the loop
    # and all that runs on it. Every road here has its own flow control.
    thespian_common.RATE_THROTTLE = 10**9
    logs.configure(pid=os.getpid())
    thespian_processes.setProcName = thespian_logger.setProcName = _entitle


def _entitle(name: str, address: Any) -> None:
    """Thespian's `setProcName`: the title of a process of which no supervisor has said more."""
    what = "admin" if name == "TetherAdmin" else name
    title.show(address.addressDetails.node, what)


def serving_now() -> None:
    """Called when a process is set up: what it has imported is kept out of every collection,
    and a fault kills it, whatever Thespian installed."""
    for name in _FAULTS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    faulthandler.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
