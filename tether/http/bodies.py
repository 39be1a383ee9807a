"""The bodies of a door's requests: within a byte budget, and large ones one after the other."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from starlette.types import Receive

from supervision.errors import TetherError
from supervision.telemetry import bounds
from tether.http import json_bounds
from tether.http.body import read_body
from tether.http.body_budget import BodyBudget
from tether.http.options import DoorOptions

TELL_S: Final = 0.25
LARGE: Final = 64 << 10  # bytes; what is smaller is decoded in less than a millisecond


class Bodies:
    """What all routes read their bodies by."""

    def __init__(self, options: DoorOptions) -> None:
        in_all = options.body_budget_bytes
        self.budget = BodyBudget(in_all, max(in_all // 2, options.max_body_bytes))
        self._large = asyncio.Lock()
        self._telling = False
        self._used = bounds.used.labels("door_body_bytes")
        self._refusals = bounds.refused.labels("door_body_bytes")

    def of(self, tenant_id: str) -> BodyShare:
        """A share of the budget, for one request of that tenant; a context manager."""
        return BodyShare(self, tenant_id)

    async def read(
        self, receive: Receive, headers: dict[bytes, bytes], limit: int, share: BodyShare
    ) -> bytes:
        """A body of JSON, within `share` and the bounds of `json_bounds`.

        Raises:
            RateLimited, Overloaded: there is no room for it now, and it was not read.
            BadRequest: it holds too much, or nests too deeply.
            what `read_body` raises.
        """
        body = await read_body(receive, headers, limit, share.take)
        if len(body) > json_bounds.SMALL:
            if len(body) > LARGE:
                await self.turn()
            json_bounds.check(body)
        return body

    async def turn(self) -> None:
        """Returns when it is a large body's turn, to be looked at until the next `await`: between
        two of them the loop does what else there is to do."""
        async with self._large:
            await asyncio.sleep(0)

    def refused(self) -> None:
        """There was no room for one."""
        self._refusals.inc()

    def changed(self) -> None:
        """A gauge shared between processes costs more than counting; it is told now and then."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = False
        self._used.set(self.budget.used)


class BodyShare:
    """The bytes of one request, given back when it ends: what was read of it lives as long."""

    __slots__ = ("_bodies", "_size", "_tenant_id")

    def __init__(self, bodies: Bodies, tenant_id: str) -> None:
        self._bodies = bodies
        self._tenant_id = tenant_id
        self._size = 0

    def take(self, size: int) -> None:
        """Some more. Raises as `BodyBudget.take` does."""
        bodies = self._bodies
        try:
            bodies.budget.take(self._tenant_id, size)
        except TetherError:
            bodies.refused()
            raise
        self._size += size
        bodies.changed()

    def __enter__(self) -> BodyShare:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._size:
            self._bodies.budget.give(self._tenant_id, self._size)
            self._bodies.changed()
