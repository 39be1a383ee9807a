"""The stream of an answer's pieces, from what computes them to who reads them."""

from __future__ import annotations

import asyncio

from actors.contracts import Finish
from actors.engines.generation import Delta
from supervision.errors import TetherError


class DeltaStream:
    """What an answer's reader has not taken yet. Deltas that pile up become one, so it holds
    no more than the answer itself."""

    __slots__ = ("_error", "_finish", "_ids", "_texts", "_waiter", "ended")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._finish: Finish | None = None
        self._error: TetherError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False

    def put(self, item: Delta | TetherError) -> None:
        if isinstance(item, Delta):
            self._ids.extend(item.token_ids)
            self._texts.append(item.text)
            self._finish = item.finish
            self.ended = item.finish is not None
        else:
            self._error = item
            self.ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Delta:
        while not (self._ids or self._finish or self._error):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._ids and self._error is not None:
            raise self._error
        delta = Delta(tuple(self._ids), "".join(self._texts), self._finish)
        self._ids.clear()
        self._texts.clear()
        return delta
