"""The questions of this process that wait for an answer, and when they have waited too long."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

from supervision.contracts import Contract
from supervision.errors import NoAnswer, Overloaded, TetherError
from supervision.runtime.wire import CANCEL, frame
from supervision.telemetry import bounds

if TYPE_CHECKING:
    from supervision.runtime.peer import Peer

MAX_ASKS: Final = 65_536
_TICK_S: Final = 0.001  # the clock of a loop counts milliseconds

_refused = bounds.refused.labels("hub_asks")


class PendingRequests:
    """One timer serves all deadlines: it is set for the earliest, and looked at again when that
    has passed. Most asks are answered long before, and then cost the timer nothing."""

    __slots__ = ("_asks", "_due", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asks: dict[int, tuple[asyncio.Future[Any], Peer, float, float]] = {}
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, number: int, peer: Peer, timeout: float) -> asyncio.Future[Any]:
        """The answer to come.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._asks) >= MAX_ASKS:
            _refused.inc()
            raise Overloaded(f"{len(self._asks)} asks of this process wait already")
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._loop.time() + timeout
        self._asks[number] = (future, peer, deadline, timeout)
        if deadline < self._due:
            self._set(deadline)
        return future

    def waits(self, number: int, peer: Peer) -> bool:
        """Is `peer` to answer this number?"""
        entry = self._asks.get(number)
        return entry is not None and entry[1] is peer

    def answered(self, number: int, answer: Contract | None) -> None:
        future = self._asks.pop(number)[0]
        if not future.done():
            future.set_result(answer)

    def failed(self, number: int, error: TetherError) -> None:
        future = self._asks.pop(number)[0]
        if not future.done():
            future.set_exception(error)

    def given_up(self, number: int) -> None:
        """Nobody waits any more: tells the other side, if it hasn't answered."""
        entry = self._asks.pop(number, None)
        if entry is not None:
            entry[1].send(frame(CANCEL, number))

    def waits_for(self, peer: Peer) -> bool:
        """Is any answer of `peer` still to come? Looks at all of them."""
        return any(entry[1] is peer for entry in self._asks.values())

    def lost(self, peer: Peer) -> None:
        """`peer` is gone, and what it hasn't answered fails."""
        for number in [n for n, entry in self._asks.items() if entry[1] is peer]:
            self.failed(number, peer.gone())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __len__(self) -> int:
        return len(self._asks)

    def __iter__(self) -> Any:
        return iter(self._asks)

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_at(deadline + _TICK_S, self._expire)

    def _expire(self) -> None:
        self._timer, self._due = None, math.inf
        now = self._loop.time()
        for number in [n for n, entry in self._asks.items() if entry[2] <= now]:
            _, peer, _, timeout = self._asks[number]
            self.failed(number, NoAnswer(f"{peer.address} did not answer within {timeout:g} s"))
            peer.send(frame(CANCEL, number))
        if self._asks:
            self._set(min(entry[2] for entry in self._asks.values()))
