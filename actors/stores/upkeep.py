"""Upkeep of the ledger: leases that ran out expire, what was kept long enough is deleted.

One reservation of the cluster sweeps, and one prunes: who holds the advisory lock, on the
connection by which it does so; the others look every now and then whether it is free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from actors.core.ids import first_id
from actors.stores import budgets, metrics
from actors.stores.answer_pruning import prune_answers
from actors.stores.database import LOST
from actors.stores.jobs import Desk
from actors.stores.ledger_options import LedgerOptions
from actors.stores.shared_desk import SharedDesk
from actors.stores.sweep_clock import SweepClock
from supervision.errors import TetherError
from supervision.telemetry import logs

log = logs.get(__name__)

SWEEPING: Final = 0x74BB_0001  # numbers of the advisory locks
PRUNING: Final = 0x74BB_0002
MONTHS_AHEAD: Final = 3  # of the ledger
_SWEEPS = 50  # batches of one sweep; the rest waits for the next
_BREATH_S = 0.02  # between two batches of deletions: requests go first


async def tell_budgets(desk: Desk) -> None:
    """Log and count the shares of budgets that were reached since somebody last did."""
    for event in await budgets.tell(desk.connection):
        metrics.budget_events.labels(str(event.share)).inc()
        log.warning("budget.reached", **event._asdict())


class Upkeep:
    """Two loops.

    Args:
        shared: the connection of the sweep.
        desk: opens one, for pruning.
        tick: is called before each sweep.
    """

    def __init__(
        self,
        options: LedgerOptions,
        shared: SharedDesk,
        desk: Callable[[], Awaitable[Desk]],
        tick: Callable[[], object],
    ) -> None:
        self._options = options
        self._shared = shared
        self._desk = desk
        self._tick = tick

    async def sweep(self) -> None:
        """Expire leases, until cancelled."""
        options = self._options
        clock = SweepClock(options.lease_s)
        sweeper: Desk | None = None
        while True:
            await asyncio.sleep(options.sweep_s)
            self._tick()
            clock.ticks(time.time())
            try:
                async with self._shared.use() as desk:
                    if desk is not sweeper:  # the lock is this connection's
                        sweeper = desk if await desk.only_one(SWEEPING) else None
                        clock.begins(time.time())
                    if sweeper is None or not clock.may_sweep(time.time()):
                        continue
                await self.sweep_once()
            except (*LOST, TetherError, asyncpg.PostgresError) as error:
                sweeper = None
                log.warning("sweep.failed", reason=str(error))

    async def sweep_once(self) -> int:
        """Expire every job whose lease has run out; returns how many there were. Renewals go
        between its batches."""
        total, orphans, batch = 0, 0, self._options.sweep_batch
        for _ in range(_SWEEPS):
            async with self._shared.use() as desk:
                swept = await desk.sweep(batch)
            total += swept.expired
            orphans += swept.freed - swept.expired
            if swept.due < batch or not swept.freed:
                break
        if orphans:
            metrics.reservation_orphans.inc(orphans)
            log.warning("leases.without_job", leases=orphans)
        if total:
            metrics.reservation_expired.inc(total)
            log.warning("leases.expired", jobs=total)
        async with self._shared.use() as desk:
            await tell_budgets(desk)
        return total

    async def prune(self) -> None:
        """Make the months of the ledger that come, and delete what is old, until cancelled."""
        while True:
            await asyncio.sleep(self._options.prune_s)
            try:
                desk = await self._desk()
                try:
                    if await desk.only_one(PRUNING):
                        await self.prune_once(desk)
                finally:
                    desk.close()
            except (*LOST, TetherError, asyncpg.PostgresError) as error:
                log.warning("prune.failed", reason=str(error))

    async def prune_once(self, desk: Desk) -> dict[str, int]:
        """Delete all that was kept long enough: so many jobs, whose ids tell when they were made,
        so that the primary key finds them, in order; and so many months of the ledger."""
        counts = {"jobs": 0, "months": 0}
        options = self._options
        await desk.extend_ledger(MONTHS_AHEAD)
        while options.keep_jobs_s:
            before = first_id(time.time_ns() - int(options.keep_jobs_s * 1e9))
            pruned = await desk.prune_jobs(before, options.keep_jobs_s, options.prune_batch)
            counts["jobs"] += pruned
            metrics.reservation_pruned.labels("jobs").inc(pruned)
            if pruned < options.prune_batch:
                break
            await asyncio.sleep(_BREATH_S)
        counts["answers"] = await prune_answers(
            desk.connection, options.answers.tenant_bytes, options.prune_batch
        )
        if options.keep_ledger_s:
            dropped = await desk.drop_ledger(options.keep_ledger_s)
            counts["months"] = len(dropped)
            metrics.reservation_pruned.labels("ledger").inc(len(dropped))
        if any(counts.values()):
            log.info("rows.deleted", **counts)
        return counts
