"""Messages and streams between simulated processes: late, lost, doubled, out of order, cut off.

A stream is a connection: losing one of its frames breaks it, for both ends. What the journals
must bear anyway (a chunk twice, or too late) is done to chunks of workers without a break.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from actors.contracts import Chunk
from bench.simulation.trace import Trace
from supervision.contracts import Contract
from supervision.errors import PeerLost, TetherError
from supervision.runtime import Address
from supervision.runtime.cancel_cause import CancelCause

NOTICE_S = 0.02  # until the loss of a connection shows, at most


class Peer(Protocol):
    """What the network knows of a process; `Process` is one. A partition cuts off its `host`."""

    name: str
    kind: str
    host: str
    address: Address
    alive: bool


class Network:
    """Rates are probabilities for each message; `calm` ends all misfortune."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dice: random.Random, trace: Trace) -> None:
        self.loop = loop
        self.dice = dice
        self.trace = trace
        worst = dice.choice((0.0, 0.01, 0.03))
        self.loss = dice.random() * worst
        self.double = dice.random() * worst * 2
        self.swap = dice.random() * worst * 2
        self.slow = dice.random() * worst * 2
        self._cut: set[tuple[str, str]] = set()

    def calm(self) -> None:
        """No faults from now on."""
        self.loss = self.double = self.swap = self.slow = 0.0
        self._cut.clear()

    def part(self, one: str, other: str, seconds: float) -> None:
        """Nothing passes between two hosts for a while."""
        pair = (min(one, other), max(one, other))
        self.trace.add("part", *pair, seconds)
        self._cut.add(pair)
        self.loop.call_later(seconds, self._cut.discard, pair)

    def delay_s(self) -> float:
        """How long this message takes."""
        dice = self.dice
        if self.slow and dice.random() < self.slow:
            return dice.uniform(0.05, 0.6)
        return dice.uniform(0.0002, 0.004)

    def lost(self, one: Peer, other: Peer) -> bool:
        """Does a message from one to the other vanish?"""
        if self._parted(one, other):
            return True
        return bool(self.loss) and self.dice.random() < self.loss

    def _parted(self, one: Peer, other: Peer) -> bool:
        pair = (min(one.host, other.host), max(one.host, other.host))
        return bool(self._cut) and pair in self._cut

    def doubled(self) -> bool:
        """Does this one come twice?"""
        return bool(self.double) and self.dice.random() < self.double

    def swapped(self) -> bool:
        """Is this one overtaken?"""
        return bool(self.swap) and self.dice.random() < self.swap

    def send(
        self,
        source: Peer,
        target: Peer,
        what: str,
        deliver: Callable[[], object],
        *,
        twice: bool = False,
        lost: Callable[[], object] | None = None,
    ) -> None:
        """`deliver` is called when the message arrives; perhaps never, with `twice` perhaps
        once more. `lost` is called where the sender can notice."""
        if not source.alive:
            return
        if self.lost(source, target):
            self.trace.add("lost", source.name, target.name, what)
            if lost is not None and not self._parted(source, target):
                lost()
            return
        times = 2 if twice and self.doubled() else 1
        for _ in range(times):
            self.loop.call_later(self.delay_s(), self.arrive, source, target, what, deliver)

    def arrive(self, source: Peer, target: Peer, what: str, deliver: Callable[[], object]) -> None:
        self.trace.add(source.name, target.name, what)
        deliver()


class Reading:
    """The reader's end of a stream, as `supervision.runtime` gives it: forgetting it closes it."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> Any:
        return await self._pipe.next()

    def close(self, why: CancelCause = CancelCause.CANCELLED) -> None:
        """The reader wants no more."""
        self._pipe.close(why)

    def __del__(self) -> None:
        if (
            not self._pipe.over
            and not self._pipe.closed
            and not self._pipe.network.loop.is_closed()
        ):
            self._pipe.close()


class Pipe:
    """One stream, with both of its ends."""

    def __init__(self, network: Network, reader: Peer, writer: Peer, opening: Contract):
        self.network = network
        self.reader, self.writer = reader, writer
        self.opening = opening
        self.task: asyncio.Task[None] | None = None
        """The writer's, once the opening has arrived."""
        self.twin: asyncio.Task[None] | None = None
        self._items: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._end: BaseException | None = None
        self._last_at = 0.0
        self.over = False
        self.closed = False

    async def next(self) -> Any:
        """
        Raises:
            StopAsyncIteration: it is at its end, or closed.
            TetherError: what ended it.
        """
        while not self._items:
            if self._end is not None or self.closed:
                if isinstance(self._end, TetherError) and not self.closed:
                    raise self._end
                raise StopAsyncIteration
            self._waiter = self.network.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._items.popleft()

    def close(self, why: CancelCause = CancelCause.CANCELLED) -> None:
        """The reader wants no more."""
        if self.closed:
            return
        self.closed = True
        self._items.clear()
        self._wake()
        if not self.over:
            self.over = True
            stop = partial(self._stop, why)
            self.network.send(self.reader, self.writer, "close", stop)
            # a connection's close isn't lost for good
            self.network.loop.call_later(1.0, stop)

    def broke(self) -> None:
        """The connection is gone; both ends notice, each in its own time."""
        if self.over:
            return
        self.over = True
        loop, dice = self.network.loop, self.network.dice
        loop.call_later(dice.uniform(0, NOTICE_S), self._finish, PeerLost("the peer is gone"))
        loop.call_later(dice.uniform(0, NOTICE_S), self._stop, CancelCause.PEER_LOST)

    def write(self, item: Any) -> None:
        """The writer says something."""
        network = self.network
        if self.over or not self.writer.alive:
            return
        if network.lost(self.writer, self.reader):
            self.broke()
            return
        at = network.loop.time() + network.delay_s()
        chunk = isinstance(item, Chunk) and self.writer.kind == "worker"
        if chunk and network.swapped():
            network.loop.call_at(at + 0.05, self._arrive, item)
            return
        self._last_at = at = max(at, self._last_at + 1e-6)  # never a tie: a heap has no order
        network.loop.call_at(at, self._arrive, item)
        if chunk and network.doubled():
            network.loop.call_at(at, self._arrive, item)

    def end(self, error: BaseException | None) -> None:
        """The writer is done."""
        if self.over:
            return
        self.over = True
        at = max(self.network.loop.time() + self.network.delay_s(), self._last_at + 1e-6)
        self.network.loop.call_at(at, self._finish, error or StopAsyncIteration())

    def _arrive(self, item: Any) -> None:
        if self._end is None and not self.closed and self.reader.alive:
            self.network.trace.add(
                self.writer.name, self.reader.name, type(item).__name__, getattr(item, "seq", "")
            )
            self._items.append(item)
            self._wake()

    def _finish(self, error: BaseException) -> None:
        if self._end is None and self.reader.alive:
            self._end = error
            self._wake()

    def _stop(self, why: str) -> None:
        for task in (self.task, self.twin):
            if task is not None and not task.done():
                task.cancel(why)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
