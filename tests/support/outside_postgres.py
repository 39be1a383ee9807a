"""A PostgreSQL server that is no node's child, taken away and given back."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.stores.embedded import Embedded


class Outside:
    """A store that runs outside of all nodes; `url` is how to reach it."""

    def __init__(self, name: str, url: str, server: Embedded) -> None:
        self.name, self.url, self._server = name, url, server

    async def stop(self) -> None:
        """Nobody reaches it any more; what it has written stays."""
        await self._server.stop()

    async def start(self) -> None:
        await self._server.start()


@asynccontextmanager
async def outside_postgres(folder: Path) -> AsyncIterator[Outside]:
    """Runs while this is open; its data lie below `folder`."""
    with tempfile.TemporaryDirectory(prefix="tp-") as sockets:
        server = Embedded(folder / "postgres", Path(sockets))
        url = await server.start()
        try:
            yield Outside("postgres", url, server)
        finally:
            await server.stop()
