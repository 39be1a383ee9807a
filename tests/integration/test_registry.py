"""The registry, told that the catalog in PostgreSQL has changed."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import msgspec
from roster_nodes import embodied
from tls_hubs import cluster

from actors.registry import Registry, RegistryOptions
from actors.runtime.streams import Stream
from tests.patience import PATIENCE_S, until
from tether.contracts import Catalog, ModelCard, ModelsChanged, WatchCatalog
from tether.stores import models

CARD = ModelCard(name="echo", version="1", engine="echo", context=512)


async def test_it_reads_again_when_its_own_node_says_so(
    tmp_path: Path, dsn: str, connection: asyncpg.Connection
):
    async with cluster(tmp_path) as hubs:
        here, there = await hubs.hub("n1"), await hubs.hub("n2")
        registry = Registry()
        await embodied(registry, await hubs.hub("n1"), RegistryOptions(dsn=dsn, catalog=(CARD,)))
        stream: Stream = here.stream(registry.address, WatchCatalog(), 4)
        first = await anext(stream)
        assert isinstance(first, Catalog)
        assert [card.context for card in first.models] == [512]
        wider = msgspec.structs.replace(CARD, context=1024)
        unasked = msgspec.structs.replace(CARD, version="2")
        await models.put(connection, [wider, unasked])
        there.tell(registry.address, ModelsChanged())  # is not its business
        here.tell(registry.address, ModelsChanged())
        here.tell(registry.address, ModelsChanged())
        second = await anext(stream)
        assert isinstance(second, Catalog)
        assert second.version == 2
        assert [(card.ref, card.context) for card in second.models] == [("echo@1", 1024)]
        await until(lambda: not registry._reading.locked(), PATIENCE_S)
        assert registry._catalog.version == 2, "what is the same is no news"
        stream.close()
