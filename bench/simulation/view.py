"""The tree of a simulated node, as its processes see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.runtime import Address
from tether.errors import Unavailable

if TYPE_CHECKING:
    from bench.simulation.process import Process

LOOK_S = 0.02


class View:
    """`Supervised.tree`: the node's tree, as it is."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def address(self, path: str) -> Address | None:
        return self._process.world.running(path)

    async def wait(self, path: str, timeout: float = 5.0) -> Address:
        """
        Raises:
            Unavailable: it did not run in time.
        """
        until = self._process.world.loop.time() + timeout
        while True:
            address = self.address(path)
            if address is not None:
                return address
            if self._process.world.loop.time() >= until:
                raise Unavailable(f"{path} doesn't run")
            await asyncio.sleep(LOOK_S)

    def on_change(self, callback: Callable[[], object]) -> None:
        self._process.world.viewers.append((self._process, callback))
