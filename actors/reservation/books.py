"""The books beside a reservation: prices, held in memory, and the sealing of what was billed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from actors.core.price import PriceBook
from actors.core.price_options import PriceOptions
from actors.stores import prices
from actors.stores.database import answers, connect
from actors.stores.ledger_options import LedgerOptions
from actors.stores.listener import listen
from actors.stores.sealer import Sealer
from supervision.errors import BadRequest
from supervision.telemetry import bounds, logs

log = logs.get(__name__)

CHANNEL = "tether_prices"


class Books:
    """Opened on a loop, and closed there.

    Args:
        dsn: of the migrated database.
        book: is kept up to date.
    """

    def __init__(self, dsn: str, options: LedgerOptions, book: PriceBook) -> None:
        self._dsn = dsn
        self._sealer = Sealer(dsn, seal_s=options.seal_s, block_max=options.seal_batch)
        self._book = book
        self._used = bounds.used.labels("prices")
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, listed: Sequence[PriceOptions] = ()) -> None:
        """Have the prices of the configuration, and know all.

        Raises:
            Unavailable: PostgreSQL can't be reached.
            BadRequest: a price of the configuration contradicts those that are there.
        """
        connection = await connect(self._dsn)
        try:
            with answers():
                async with connection.transaction():
                    added = await prices.configure(connection, listed)
                await self._read(connection)
        finally:
            connection.terminate()
        if added:
            log.info("prices.configured", added=added)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(listen(self._dsn, CHANNEL, self._read), name="ledger prices"),
            loop.create_task(self._sealer.run(), name="ledger sealer"),
        ]

    async def close(self) -> None:
        """Safe to call twice, and without `open`."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, connection: asyncpg.Connection) -> None:
        try:
            self._book.replace(await prices.in_force(connection))
        except BadRequest as error:  # those that are known hold on
            bounds.refused.labels("prices").inc()
            log.error("prices.refused", reason=str(error))
        self._used.set(self._book.size)
