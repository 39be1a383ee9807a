"""The actor that keeps the catalog of models, in PostgreSQL and for whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import msgspec

from actors.runtime import Address, on
from supervision import Supervised
from tether.contracts import Catalog, ModelCard, ModelsChanged, WatchCatalog
from tether.errors import Forbidden
from tether.stores import models
from tether.stores.database import Database
from tether.telemetry import logs

log = logs.get(__name__)

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
        self._options = options
        self._catalog = Catalog(version=1, models=await self._read(options.catalog))
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()

    async def _read(self, put: tuple[ModelCard, ...] = ()) -> tuple[ModelCard, ...]:
        """What PostgreSQL knows of the configured models, after it was told of those in `put`."""
        options = self._options
        database = Database(options.dsn)
        try:
            await database.open(PATIENCE_S)
            await models.put(database, put)
            kept = await models.listed(database)
        finally:
            await database.close()
        offered = {card.ref for card in options.catalog}
        return tuple(card for card in kept if card.ref in offered)

    @on(ModelsChanged)
    async def changed(self, msg: ModelsChanged, sender: Address) -> None:
        """Somebody has changed the catalog in PostgreSQL: read it again.

        Raises:
            Forbidden: it comes from another node; those tell the roster.
        """
        if sender.node != self.address.node:
            raise Forbidden("a registry is told of changes by the roster of its own node only")
        async with self._reading:
            found = await self._read()
            if found != self._catalog.models:
                self._catalog = Catalog(version=self._catalog.version + 1, models=found)
                news, self._news = self._news, asyncio.Event()
                news.set()
                log.info("the catalog changed", models=len(found))

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
