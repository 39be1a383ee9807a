"""The actor that listens to workers and tells who asks which of them are alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import msgspec

from actors.runtime import Address, on
from supervision import Supervised
from tether.contracts import Fleet, HealthReport, WatchFleet
from tether.core.roster import EXPIRY_S, SUSPECT_S
from tether.core.roster import Roster as Snapshot
from tether.telemetry import logs, metrics

log = logs.get(__name__)


class RosterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is silent for `suspect_s` is second choice, after `expiry_s` it is none.

    Raises:
        ValueError: a bound is out of its range.
    """

    expiry_s: float = EXPIRY_S
    suspect_s: float = SUSPECT_S
    max_workers: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.suspect_s <= self.expiry_s:
            raise ValueError("suspect_s must be above 0 and at most expiry_s")
        if self.max_workers < 1:
            raise ValueError("max_workers must be at least 1")


class Roster(Supervised):
    """Takes `HealthReport`s, streams `Fleet`s. Needs nobody. A worker whose connection breaks
    is gone at once; one that is only silent goes by `expiry_s`."""

    Options: ClassVar[type[msgspec.Struct]] = RosterOptions

    async def start(self, options: RosterOptions) -> None:
        self._snapshot = Snapshot(options.expiry_s, options.suspect_s, options.max_workers)
        self._news = asyncio.Event()
        self._watched: set[tuple[str, int]] = set()
        self._refused = metrics.bound_refused.labels("roster_reports")
        self.background(self._sweep(), name="sweep")

    @on(HealthReport)
    def report(self, msg: HealthReport, sender: Address) -> None:
        """A worker speaks for itself: a report that comes from elsewhere is dropped."""
        if msg.address != str(sender):
            log.warning("a report of another sender", worker_id=msg.worker_id, sender=str(sender))
            return
        refused = self._snapshot.refused
        if self._snapshot.observe(msg, self.loop.time()):
            self._changed()
        if self._snapshot.refused != refused:
            self._refused.inc()
            return
        start = (msg.worker_id, msg.epoch)
        if start not in self._watched:
            self._watched.add(start)
            self.watch(sender, lambda: self._lost(start))

    @on(WatchFleet)
    async def fleet(self, msg: WatchFleet, sender: Address) -> AsyncIterator[Fleet]:
        """The newest snapshot, whenever there is a newer one."""
        version = -1
        while True:
            fleet = self._snapshot.fleet
            if fleet.version != version:
                version = fleet.version
                yield fleet
            else:
                await self._news.wait()

    def _lost(self, start: tuple[str, int]) -> None:
        self._watched.discard(start)
        if self._snapshot.lost(*start):
            log.info("worker lost", worker_id=start[0])
            self._changed()

    def _changed(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        metrics.fleet_workers.set(len(self._snapshot))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self._snapshot.expire(self.loop.time()):
                self._changed()
