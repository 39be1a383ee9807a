"""The sealer: closes what was written to the ledger into blocks. One of the cluster does it at a
time; nothing waits for it. See docs/ledger.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from actors.core.sealing import LedgerBlock, SealedLeaf, block_of, entry_of, leaf_of, seal, stamp
from actors.stores import metrics
from actors.stores.database import LOST, connect
from actors.stores.queries import sql
from supervision.errors import TetherError
from supervision.telemetry import logs

log = logs.get(__name__)

LOCK: Final = 0x7E7A_2D54  # any number that no other program locks in this database
_AT_ONCE: Final = 64  # entries that are hashed before others have a turn: about a millisecond
_DROPPED: Final = 1000  # leaves of months that are gone, each time
_POLL_S: Final = 0.2
_POLLS: Final = 50  # then it is left to the next time


class Sealer:
    """Seals every `seal_s`, at most `block_max` entries in a block.

    Args:
        dsn: of the database; each time has a connection of its own.
    """

    def __init__(self, dsn: str, *, seal_s: float = 60.0, block_max: int = 2048) -> None:
        self._dsn = dsn
        self._seal_s = seal_s
        self._block_max = block_max

    async def run(self) -> None:
        """Seal, until cancelled."""
        while True:
            await asyncio.sleep(self._seal_s)
            try:
                await self.seal()
            except (*LOST, TetherError, asyncpg.PostgresError, ValueError) as error:
                log.warning("sealing.failed", reason=str(error))

    async def seal(self) -> int:
        """Seal all that can't change any more; returns how many blocks were made: none if
        somebody else seals, or what was just written may still get company.

        Raises:
            Unavailable, asyncpg.PostgresError: PostgreSQL doesn't; what was sealed stays.
            ValueError: the entries are not in order, which no ledger of ours is.
        """
        async with self._alone() as connection:
            if connection is None:
                return 0
            await connection.execute(sql("drop_leaves"), _DROPPED)
            row = await connection.fetchrow(sql("last_block"))
            last = None if row is None else block_of(row)
            sealed_to = 0 if last is None else last.to_seq
            mark = await connection.fetchrow(sql("mark_entries"), sealed_to)
            if mark["to_seq"] == sealed_to or not await _over(connection, mark["next"]):
                return 0
            return await self._blocks(connection, last, sealed_to, mark["to_seq"])

    async def _blocks(
        self, connection: asyncpg.Connection, last: LedgerBlock | None, done: int, to_seq: int
    ) -> int:
        made = 0
        while done < to_seq:
            upto = min(done + self._block_max, to_seq)
            leaves = await _leaves(connection, done, upto)
            if not leaves:  # numbers that were drawn for nothing, perhaps very many
                found = await connection.fetchval(sql("next_entry"), done, to_seq)
                if found is None:
                    break
                done = found - 1
                continue
            now = stamp(datetime.now(UTC))
            sealed = seal(last, leaves, to_seq=upto, sealed_at=now)
            async with connection.transaction():
                for block, packed in sealed:
                    await connection.execute(sql("add_block"), *_columns(block))
                    await connection.execute(sql("add_leaves"), block.number, packed)
            last, done = sealed[-1][0], upto
            made += len(sealed)
            metrics.ledger_sealed.inc(len(leaves))
            metrics.ledger_blocks.inc(len(sealed))
        if made and last is not None:
            log.info("ledger.sealed", blocks=made, head=last.hash, number=last.number)
        return made

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncpg.Connection | None]:
        """A connection that may seal, until it is closed; None if another one may."""
        connection = await connect(self._dsn)
        try:
            mine = await connection.fetchval(sql("only_one"), LOCK)
            yield connection if mine else None
        finally:
            connection.terminate()


async def _over(connection: asyncpg.Connection, transaction: str) -> bool:
    """Are all transactions before this one over? Waits for them a while."""
    for _ in range(_POLLS):
        if await connection.fetchval(sql("are_over"), transaction):
            return True
        await asyncio.sleep(_POLL_S)
    log.warning("a transaction stays open, and holds up the sealing of the ledger")
    return False


async def _leaves(connection: asyncpg.Connection, after: int, upto: int) -> list[SealedLeaf]:
    leaves: list[SealedLeaf] = []
    async with connection.transaction(readonly=True):
        cursor = connection.cursor(sql("entries_between"), after, upto, prefetch=_AT_ONCE)
        async for row in cursor:
            leaves.append(leaf_of(entry_of(row)))
            if len(leaves) % _AT_ONCE == 0:
                await asyncio.sleep(0)
    return leaves


def _columns(block: LedgerBlock) -> tuple[Any, ...]:
    return (
        block.number,
        block.from_seq,
        block.to_seq,
        block.entries,
        datetime.fromisoformat(block.first_at),
        datetime.fromisoformat(block.last_at),
        bytes.fromhex(block.root),
        bytes.fromhex(block.previous),
        datetime.fromisoformat(block.sealed_at),
        bytes.fromhex(block.hash),
    )
