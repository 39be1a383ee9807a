"""Upkeep of the ledger: leases that ran out expire, what was kept long enough is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg

from actors.core.ids import first_id
from actors.stores import metrics
from actors.stores.database import LOST
from actors.stores.jobs import Desk
from actors.stores.ledger_options import LedgerOptions
from supervision.errors import TetherError
from supervision.telemetry import logs

log = logs.get(__name__)

_SWEEPS = 50  # batches of one sweep; the rest waits for the next
MONTHS_AHEAD = 3  # of the ledger
_BREATH_S = 0.02  # between two batches of deletions: requests go first


class Upkeep:
    """Two loops, each with a connection of its own.

    Args:
        desk: opens a connection.
        tick: is called before each sweep.
    """

    def __init__(
        self,
        options: LedgerOptions,
        desk: Callable[[], Awaitable[Desk]],
        tick: Callable[[], object],
    ) -> None:
        self._options = options
        self._desk = desk
        self._tick = tick

    async def sweep(self) -> None:
        """Expire leases, until cancelled."""
        desk: Desk | None = None
        try:
            while True:
                # Also after connecting: settles that waited for PostgreSQL go before the sweep.
                await asyncio.sleep(self._options.sweep_s)
                self._tick()
                try:
                    if desk is None or desk.closed:
                        desk = await self._desk()
                        continue
                    await self.sweep_once(desk)
                except (*LOST, TetherError, asyncpg.PostgresError) as error:
                    log.warning("sweep.failed", reason=str(error))
                    if desk is not None:
                        desk.close()
        finally:
            if desk is not None:
                desk.close()

    async def sweep_once(self, desk: Desk) -> int:
        """Expire every job whose lease has run out; returns how many there were."""
        total, batch = 0, self._options.sweep_batch
        for _ in range(_SWEEPS):
            swept = await desk.sweep(batch)
            total += swept.expired
            if swept.due < batch:
                break
        if total:
            metrics.reservation_expired.inc(total)
            log.warning("leases.expired", jobs=total)
        return total

    async def prune(self) -> None:
        """Delete what is old, until cancelled; ends at once where all is kept."""
        options = self._options
        while options.keep_jobs_s or options.keep_ledger_s or options.answers.keep_s:
            await asyncio.sleep(options.prune_s)
            try:
                desk = await self._desk()
                try:
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
        while options.keep_jobs_s:
            before = first_id(time.time_ns() - int(options.keep_jobs_s * 1e9))
            pruned = await desk.prune_jobs(before, options.keep_jobs_s, options.prune_batch)
            counts["jobs"] += pruned
            metrics.reservation_pruned.labels("jobs").inc(pruned)
            if pruned < options.prune_batch:
                break
            await asyncio.sleep(_BREATH_S)
        counts["answers"] = await self._prune_answers(desk)
        if options.keep_ledger_s:
            dropped = await desk.drop_ledger(options.keep_ledger_s)
            counts["months"] = len(dropped)
            metrics.reservation_pruned.labels("ledger").inc(len(dropped))
        if any(counts.values()):
            log.info("rows.deleted", **counts)
        return counts

    async def _prune_answers(self, desk: Desk) -> int:
        """Delete the answers that have expired, and the oldest of tenants that have too many."""
        total, batch = 0, self._options.prune_batch
        while (pruned := await desk.prune_answers(batch)) == batch:
            total += pruned
            await asyncio.sleep(_BREATH_S)
        total += pruned
        while True:
            seen = await desk.shed_answers(self._options.answers.tenant_bytes, batch)
            total += seen.shed
            metrics.answers_stored.set(seen.answers - seen.shed)
            metrics.answers_stored_bytes.set(seen.bytes)
            if seen.shed < batch:
                break
            await asyncio.sleep(_BREATH_S)
        metrics.reservation_pruned.labels("answers").inc(total)
        return total
