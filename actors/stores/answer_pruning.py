"""The pruning of finished answers: those that have expired, and the oldest of tenants that have too
many bytes of them."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from actors.stores import metrics
from actors.stores.queries import sql

_BREATH_S: Final = 0.02  # between two batches of deletions: requests go first


async def prune_answers(connection: asyncpg.Connection, tenant_bytes: int, most: int) -> int:
    """Delete them, `most` at a time, so that no tenant has more than `tenant_bytes`; how many.

    Raises:
        asyncpg.PostgresError, OSError, TimeoutError: nothing can be said of the last batch.
    """
    total = 0
    while True:
        pruned = int(await connection.fetchval(sql("prune_answers"), most))
        total += pruned
        if pruned < most:
            break
        await asyncio.sleep(_BREATH_S)
    while True:
        seen = await connection.fetchrow(sql("shed_answers"), tenant_bytes, most)
        total += int(seen["shed"])
        metrics.answers_stored.set(seen["answers"] - seen["shed"])
        metrics.answers_stored_bytes.set(seen["bytes"] - seen["shed_bytes"])
        if seen["shed"] < most:
            break
        await asyncio.sleep(_BREATH_S)
    metrics.reservation_pruned.labels("answers").inc(total)
    return total
