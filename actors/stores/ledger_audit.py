"""The audit of a ledger in PostgreSQL: reads all of it, month by month, with bounded memory."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from actors.core.ledger_audit import LedgerAudit
from actors.core.sealing import LedgerEntry, block_of, entry_of
from actors.stores.books import next_month
from actors.stores.database import answers, connect
from actors.stores.queries import sql

_FETCHED: Final = 500  # rows at a time
_READ_S: Final = 600.0  # for the first row of a month, which PostgreSQL sorts


async def audit(
    dsn: str, heads: Collection[str] = (), *, gone_before: datetime | None = None
) -> LedgerAudit:
    """Compare the whole ledger with its blocks, in one snapshot.

    Args:
        heads: hashes of blocks that were published.
        gone_before: months that ended before may be gone.

    Raises:
        Unavailable, Internal: PostgreSQL can't be read.
    """
    found = LedgerAudit(heads)
    connection = await connect(dsn)
    try:
        with answers():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await _audit_all(connection, found, gone_before)
    finally:
        connection.terminate()
    return found


async def _audit_all(
    connection: asyncpg.Connection, found: LedgerAudit, gone_before: datetime | None
) -> None:
    async for row in connection.cursor(sql("blocks_between"), 1, 2**62, prefetch=_FETCHED):
        found.follow(block_of(row))
    found.follows()
    span = await connection.fetchrow(sql("ledger_span"), timeout=_READ_S)
    if span["first_at"] is None:
        return
    month = (
        span["first_at"].astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    )
    while month <= span["last_at"]:
        after = next_month(month)
        may_be_gone = gone_before is not None and after <= gone_before
        await _audit_month(connection, found, month, after, may_be_gone=may_be_gone)
        month = after


async def _audit_month(
    connection: asyncpg.Connection,
    found: LedgerAudit,
    begins: datetime,
    ends: datetime,
    *,
    may_be_gone: bool,
) -> None:
    blocks = aiter(connection.cursor(sql("blocks_of_month"), begins, ends, prefetch=1))
    rows = aiter(connection.cursor(sql("entries_of_month"), begins, ends, prefetch=_FETCHED))
    entry = await _entry(rows)
    none_left = may_be_gone and entry is None
    async for row in blocks:
        block = block_of(row)
        if none_left:
            found.pass_over(block)
            continue
        while entry is not None and entry.seq < block.from_seq:
            found.see(entry)
            entry = await _entry(rows)
        found.open(block, row["leaves"])
        while entry is not None and entry.seq <= block.to_seq:
            found.see(entry)
            entry = await _entry(rows)
        found.close()
    while entry is not None:
        found.see(entry)
        entry = await _entry(rows)


async def _entry(rows: Any) -> LedgerEntry | None:
    row = await anext(rows, None)
    return None if row is None else entry_of(row)
