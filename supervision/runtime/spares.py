"""The spares of a process: children spawned ahead, of which the next actor is made.

A spare is told apart by what the kernel says of it: its name, once it has imported everything, and
that it sleeps. One that has died, was stopped or isn't warm yet is passed over, and the actor is
spawned as it would be without spares.
"""

from __future__ import annotations

import asyncio
import multiprocessing.process as processes
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from supervision.runtime import metrics
from supervision.runtime.spare import WARM
from supervision.telemetry import bounds, logs

FIRST_S: Final = 1.5  # the node starts up first, and has no core to spare
REFILL_S: Final = 0.5  # after one was used: first comes the actor that it has become
WARM_UP_S: Final = 60.0  # a spare that isn't warm by then never will be
_RETRY_S: Final = (1.0, 60.0)  # after spares that ended before they were of use
_MAX_TOLD: Final = 60_000  # bytes; less than a pipe holds, so that telling never blocks

log = logs.get(__name__)
_used = metrics.spare_starts.labels("used")
_missed = metrics.spare_starts.labels("missed")
_lost = metrics.spare_starts.labels("lost")


@dataclass(slots=True, eq=False)
class _Spare:
    process: Any  # SpawnedProcess
    pidfd: int
    since: float

    @property
    def warm(self) -> bool:
        """It waits to be told."""
        return self._seen() == ("sleeping", WARM)

    @property
    def stopped(self) -> bool:
        """It can't be told any more."""
        return self._seen()[0] in ("stopped", "tracing-stop", "")

    def _seen(self) -> tuple[str, str]:
        """Its state and its name; empty once it is gone."""
        import psutil  # 10 ms, which the start of an actor can do without

        try:
            process = psutil.Process(self.process.pid)
            return process.status(), process.name()
        except psutil.Error:
            return "", ""


class Spares:
    """Keeps `wanted` processes that have imported `modules`, made by `spawn`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wanted: int,
        modules: Iterable[str],
        spawn: Callable[[tuple[str, ...]], Any],
    ) -> None:
        self._loop = loop
        self._wanted = wanted
        self._modules = tuple(sorted(set(modules)))
        self._spawn = spawn
        self._kept: list[_Spare] = []
        self._timer: asyncio.TimerHandle | None = None
        self._failed = 0  # in a row
        self._closed = False
        self._gauge = bounds.used.labels("warm_spares")
        self._later(FIRST_S)

    @property
    def ready(self) -> bool:
        """The next actor can be made of a spare."""
        return any(spare.warm for spare in self._kept)

    def have(self, modules: set[str]) -> bool:
        """These are what they import."""
        return set(self._modules) == modules

    def take(self, told: bytes | memoryview) -> Any | None:
        """Tell a spare what it is; its process, or None if there is none that could be told."""
        if len(told) <= _MAX_TOLD:
            for spare in list(self._kept):
                if not spare.warm:
                    self._pass_over(spare)
                    continue
                self._forget(spare)
                try:
                    spare.process.tell(told)
                except OSError:  # it has ended this moment
                    _lost.inc()
                    self._end(spare)
                    continue
                self._failed = 0
                _used.inc()
                self._later(REFILL_S)
                return spare.process
        _missed.inc()
        self._later(REFILL_S)
        return None

    def close(self) -> None:
        """End them all. May be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for spare in list(self._kept):
            self._forget(spare)
            self._end(spare)

    # ---- how

    def _refill(self) -> None:
        self._timer = None
        while not self._closed and len(self._kept) < self._wanted:
            try:
                process = self._spawn(self._modules)
            except OSError as error:  # no process or descriptor left
                log.warning("no spare could be started", error=str(error))
                self._later(_RETRY_S[1])
                return
            # nobody waits for it when this process ends: it ends by itself
            processes._children.discard(process)  # type: ignore[attr-defined]
            try:
                pidfd = os.pidfd_open(process.pid)
            except OSError:
                self._later(_RETRY_S[1])
                return
            spare = _Spare(process, pidfd, time.monotonic())
            self._kept.append(spare)
            self._loop.add_reader(pidfd, self._ended, spare)
            self._gauge.set(len(self._kept))

    def _later(self, seconds: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(seconds, self._refill)

    def _ended(self, spare: _Spare) -> None:
        """It ended unused."""
        _lost.inc()
        self._forget(spare)
        self._end(spare)
        self._failed += 1
        first_s, most_s = _RETRY_S
        self._later(min(most_s, first_s * 2.0 ** min(self._failed - 1, 16)))

    def _pass_over(self, spare: _Spare) -> None:
        """It can't be used now; when it should have been warm long ago, or was stopped, it never
        can."""
        if time.monotonic() - spare.since > WARM_UP_S or spare.stopped:
            log.warning("a spare hangs and is killed", spare=spare.process.pid)
            _lost.inc()
            self._forget(spare)
            self._end(spare)

    def _forget(self, spare: _Spare) -> None:
        if spare in self._kept:
            self._kept.remove(spare)
            self._loop.remove_reader(spare.pidfd)
            os.close(spare.pidfd)
            self._gauge.set(len(self._kept))

    def _end(self, spare: _Spare) -> None:
        """Kill it, and let nothing of it remain."""
        with suppress(OSError):
            spare.process.kill()
        spare.process.join(1.0)
