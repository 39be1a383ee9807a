"""The two ends of a stream of contracts, with credit.

The reader grants the writer a number of items at `OPEN` and again with every half of it that
it has taken; the writer's generator is suspended while it has none left. So no more than
`credit` items of a stream are ever under way or waiting, however slow the reader is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from supervision.contracts import Contract
from supervision.errors import Cancelled, Draining, Overloaded, TetherError
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.codec import encode, encode_error
from supervision.runtime.wire import CANCEL, CREDIT, END, ERROR, ITEM, OVERHEAD, U32, frame
from supervision.telemetry.bounded_log import BoundedLog

if TYPE_CHECKING:
    from supervision.runtime.peer import Peer

heard = BoundedLog(__name__)


class Inbox:
    """What has arrived of a stream and wasn't taken yet; what `Exchanges` see of a `Stream`."""

    __slots__ = ("credit", "end", "items", "number", "open", "peer", "waiter")

    def __init__(self, peer: Peer, number: int, credit: int, open_: dict[int, Inbox]) -> None:
        self.peer = peer
        self.number = number
        self.credit = credit
        self.open = open_
        self.items: deque[Contract] = deque()
        self.end: TetherError | StopAsyncIteration | None = None
        self.waiter: asyncio.Future[None] | None = None

    def arrived(self, item: Contract) -> None:
        self.items.append(item)
        if len(self.items) > self.credit:
            self.ended(Overloaded(f"{self.peer.address} sent more than it was granted"))
            self.peer.send(frame(CANCEL, self.number))
        elif self.waiter is not None:
            self.wake()

    def ended(self, error: TetherError | None) -> None:
        """Nothing more will come; what has arrived can still be taken."""
        if self.end is None:
            self.end = error or StopAsyncIteration()
            self.open.pop(self.number, None)
            self.wake()

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Stream:
    """The reading end: an async iterator for one task.

    Leaving it before its end, by `break`, an exception, `aclose()` or by dropping it, tells
    the writer to stop. Iterating raises what the writer raised, or `PeerLost`.
    """

    __slots__ = ("_inbox", "_taken")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._taken = 0

    @property
    def waiting(self) -> int:
        """How many items can be taken without waiting for the writer."""
        return len(self._inbox.items)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        inbox = self._inbox
        items = inbox.items
        while not items:
            if inbox.end is not None:
                end, inbox.end = inbox.end, StopAsyncIteration()
                try:
                    raise end
                finally:
                    del end  # it will hold this frame
            if inbox.waiter is not None:
                raise RuntimeError("a stream can be read by one task only")
            inbox.waiter = inbox.peer.hub.loop.create_future()
            try:
                await inbox.waiter
            finally:
                inbox.waiter = None
        self._taken += 1
        if self._taken * 2 >= inbox.credit and inbox.end is None:
            inbox.peer.send(frame(CREDIT, inbox.number, U32.pack(self._taken)))
            self._taken = 0
        return items.popleft()

    async def aclose(self) -> None:
        """Stops the writer if it hasn't ended; safe to call twice."""
        self.close()

    def close(self, why: CancelCause = CancelCause.CANCELLED) -> None:
        """As `aclose`, from code that can't await. `why` is said to the writer: that nobody wants
        the answer, or that who asked is `LEAVING`."""
        inbox = self._inbox
        if inbox.end is None:
            inbox.ended(None)
            said = b"" if why is CancelCause.CANCELLED else why.encode()
            inbox.peer.send(frame(CANCEL, inbox.number, said))
        inbox.items.clear()

    def __del__(self) -> None:
        if self._inbox.end is None and not self._inbox.peer.hub.loop.is_closed():
            self.close()


class Producer:
    """The writing end: runs the generator of a handler as one task."""

    __slots__ = ("_cancelled", "_credit", "_granted", "_task", "name", "number", "peer")

    def __init__(self, peer: Peer, number: int, credit: int) -> None:
        self.peer = peer
        self.number = number
        self.name = ""  # of the method that writes
        self._credit = credit
        self._granted: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled: CancelCause | None = None

    def run(self, items: AsyncGenerator[Contract, None]) -> asyncio.Task[None]:
        self.name = getattr(items, "__name__", "")
        self._task = self.peer.hub.loop.create_task(self._run(items))
        return self._task

    def grant(self, items: int) -> None:
        """The reader took so many items."""
        self._credit += items
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)

    def cancel(self, msg: Any = None, /) -> object:
        """Throws CancelledError(msg) into the generator, once."""
        if self._cancelled is None and self._task is not None:
            self._cancelled = msg if isinstance(msg, CancelCause) else CancelCause.CANCELLED
            self._task.cancel(msg)
        return None

    async def _run(self, items: AsyncGenerator[Contract, None]) -> None:
        peer, number = self.peer, self.number
        try:
            async for item in items:
                payload = encode(item)
                if len(payload) + OVERHEAD > peer.max_frame:
                    peer.check(len(payload) + OVERHEAD)
                try:
                    while self._credit <= 0:
                        await self._more()
                    if peer.paused:
                        await peer.room()
                except asyncio.CancelledError as cancelled:
                    # The generator rests at its yield; it shall hear of it there.
                    await _throw(items, cancelled)
                    raise
                if self._cancelled is not None:  # and the generator went on regardless
                    break
                self._credit -= 1
                peer.send(frame(ITEM, number, payload))
            if self._cancelled is None:
                peer.send(frame(END, number))
                return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, TetherError):
                heard.exception("a stream failed", peer.address.node, peer=str(peer.address))
            peer.send(frame(ERROR, number, encode_error(error)))
        finally:
            if self._cancelled is not None:
                # A reader that left has forgotten the number; one that is still there must
                # not take a broken stream for a complete one.
                peer.send(frame(ERROR, number, encode_error(self._why())))
            try:
                await items.aclose()  # which may have to be cancelled, too
            finally:
                self._task = None  # where it is cancelled, its end holds this frame

    def _why(self) -> TetherError:
        if self._cancelled is CancelCause.STOPPING:
            return Draining(f"{self.peer.hub.address} is stopping")
        return Cancelled("the stream was cancelled")

    async def _more(self) -> None:
        self._granted = self.peer.hub.loop.create_future()
        try:
            await self._granted
        finally:
            self._granted = None


async def _throw(items: AsyncGenerator[Contract, None], error: BaseException) -> None:
    """Ends a generator with `error`, whatever it makes of it."""
    try:
        await items.athrow(error)
    except (StopAsyncIteration, asyncio.CancelledError):
        pass
    except Exception:
        heard.exception("a stream failed while it was cancelled", "")
