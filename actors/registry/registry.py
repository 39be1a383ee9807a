"""The actor that keeps the catalog of models, in PostgreSQL and for whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import msgspec

from actors.runtime import Address, on
from supervision import Supervised
from tether.contracts import Catalog, ModelCard, WatchCatalog
from tether.stores import models
from tether.stores.database import Database

PATIENCE_S = 20.0  # with PostgreSQL, at the start


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`catalog` is what the configuration offers; `dsn` is PostgreSQL's.

    Raises:
        ValueError: two cards share a ref.
    """

    dsn: str
    catalog: tuple[ModelCard, ...] = ()

    def __post_init__(self) -> None:
        if len({card.ref for card in self.catalog}) != len(self.catalog):
            raise ValueError("two models of the catalog share name and version")


class Registry(Supervised):
    """Puts the configured models into PostgreSQL and streams the `Catalog`. Models that only
    PostgreSQL knows, from an older configuration, stay there for the ledger's sake and aren't
    offered."""

    Options: ClassVar[type[msgspec.Struct]] = RegistryOptions

    async def start(self, options: RegistryOptions) -> None:
        database = Database(options.dsn)
        try:
            await database.open(PATIENCE_S)
            await models.put(database, options.catalog)
            kept = await models.listed(database)
        finally:
            await database.close()
        offered = {card.ref for card in options.catalog}
        self._catalog = Catalog(version=1, models=tuple(c for c in kept if c.ref in offered))
        self._news = asyncio.Event()

    @on(WatchCatalog)
    async def catalog(self, msg: WatchCatalog, sender: Address) -> AsyncIterator[Catalog]:
        """The catalog now, and whenever it changes."""
        version = -1
        while True:
            catalog = self._catalog
            if catalog.version != version:
                version = catalog.version
                yield catalog
            else:
                await self._news.wait()
