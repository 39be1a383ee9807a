"""A stream from another child of the node, kept open over that child's restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from supervision.child import Supervised
from supervision.contracts import Contract
from supervision.errors import TetherError
from supervision.runtime import Address
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)

PAUSE_S = 0.1  # after a loss, before the tree is asked again: it hears a little later than we do
FIND_S = 5.0


class Follower:
    """Opens `opening` at whoever runs at `path` and hands every item to `apply`, for ever. Given
    `find`, that says each time whom to ask, within so many seconds, instead of the node's tree.

    Credit is small on purpose: such streams say how something is *now*, so what a slow reader
    missed is skipped by the writer, not queued.
    """

    def __init__(
        self,
        actor: Supervised,
        path: str,
        opening: Contract,
        apply: Callable[[Any], object],
        find: Callable[[float], Awaitable[Address]] | None = None,
    ) -> None:
        self._actor = actor
        self._path = path
        self._opening = opening
        self._apply = apply
        self._find = find
        self.first = asyncio.Event()
        """Set when the first item was applied."""

    async def run(self) -> None:
        """Until cancelled; meant for `background`."""
        actor = self._actor
        while True:
            try:
                address = await self._who()
                async for item in actor.stream(address, self._opening, credit=2):
                    self._apply(item)
                    self.first.set()
            except TetherError as error:
                heard.info(
                    "lost a stream, will open it again",
                    self._path,
                    path=self._path,
                    error=error.message,
                )
            await asyncio.sleep(PAUSE_S)

    async def _who(self) -> Address:
        if self._find is not None:
            return await self._find(FIND_S)
        return await self._actor.tree.wait(self._path, FIND_S)
