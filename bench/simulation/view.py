"""The tree of a simulated node, as its processes see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bench.simulation.network import Peer
from bench.simulation.world import World
from supervision.errors import Unavailable
from supervision.runtime import Address

LOOK_S = 0.02


class View:
    """`Supervised.tree` of the process `owner`: the node's tree, as it is."""

    def __init__(self, world: World, owner: Peer) -> None:
        self._world = world
        self._owner = owner

    def address(self, path: str) -> Address | None:
        return self._world.running(path)

    async def wait(self, path: str, timeout: float = 5.0) -> Address:
        """
        Raises:
            Unavailable: it did not run in time.
        """
        until = self._world.now + timeout
        while True:
            address = self.address(path)
            if address is not None:
                return address
            if self._world.now >= until:
                raise Unavailable(f"{path} doesn't run")
            await asyncio.sleep(LOOK_S)

    def on_change(self, callback: Callable[[], object]) -> None:
        self._world.viewers.append((self._owner, callback))
