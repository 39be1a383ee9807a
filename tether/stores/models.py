"""The catalog of models, as PostgreSQL keeps it. Changes are told on the channel
`tether_models`."""

from __future__ import annotations

import time
from collections.abc import Iterable

from tether.contracts import ModelCard
from tether.stores.keys import Connection
from tether.stores.queries import sql


async def put(connection: Connection, cards: Iterable[ModelCard]) -> None:
    """Add these versions to the catalog, or change them; `created_s` of 0 means now for a new
    one, and stays as it was for an old one."""
    for card in cards:
        await connection.execute(
            sql("put_model"),
            card.name,
            card.version,
            card.engine,
            card.source,
            card.context,
            card.dtype,
            card.created_s or int(time.time()),
        )


async def listed(connection: Connection) -> tuple[ModelCard, ...]:
    """The whole catalog, in the order of names and versions."""
    return tuple(ModelCard(**dict(row)) for row in await connection.fetch(sql("list_models")))
