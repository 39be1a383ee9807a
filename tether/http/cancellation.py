"""The end of a request from outside: the client hangs up, or time runs out.

Watching `receive` for `http.disconnect` takes a task of its own. Most answers come sooner than
that pays, so one timer comes first: it fires when the request has lasted `PATIENCE_S`, and only
then is the watch set up. ASGI keeps the disconnect until it is asked for, so nothing is missed.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

from supervision.errors import Cancelled, DeadlineExceeded, TetherError
from supervision.runtime.cancel_cause import CancelCause
from tether.http.errors import BodyTooSlow

PATIENCE_S = 0.05
GRACE_S = 1.0  # the gateway knows the deadline as well, and its error says more than ours


class Cancellation:
    """Context manager that cancels the task inside it, and turns that into an error.

    `listening()` must be called once the body is read: before that, `receive` belongs to its
    reader, and only `body_timeout_s` counts.

    Raises (on exit):
        Cancelled: the client hung up.
        DeadlineExceeded: `deadline_s` passed.
        BodyTooSlow: the body had not arrived after `body_timeout_s`.
    """

    __slots__ = (
        "_cause",
        "_deadline_s",
        "_ends",
        "_loop",
        "_reading",
        "_receive",
        "_slow",
        "_task",
        "_timer",
        "_watch",
    )

    def __init__(self, receive: Receive, deadline_s: float, body_timeout_s: float) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._receive = receive
        self._deadline_s = deadline_s
        now = loop.time()
        self._ends = now + deadline_s + GRACE_S
        self._slow = now + body_timeout_s
        self._reading = True
        self._cause: TetherError | None = None
        self._watch: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()
        self._timer = loop.call_later(PATIENCE_S, self._look)

    def listening(self) -> None:
        """The body is read; from now on `receive` tells of nothing but a hang-up."""
        self._reading = False

    def remaining_s(self) -> float:
        """Seconds until the deadline; never below a millisecond, nor above what was asked."""
        left = self._ends - GRACE_S - self._loop.time()
        return min(max(left, 0.001), self._deadline_s)

    def _look(self) -> None:
        now = self._loop.time()
        if self._reading:
            if now >= self._slow:
                self._cut(BodyTooSlow("the body of the request did not arrive in time"))
            else:
                self._timer = self._loop.call_later(0.25, self._look)
        elif now >= self._ends:
            self._cut(DeadlineExceeded(f"no complete answer within {self._deadline_s:g} seconds"))
        else:
            if self._watch is None:
                self._watch = self._loop.create_task(self._wait_for_hangup())
            self._timer = self._loop.call_at(self._ends, self._look)

    async def _wait_for_hangup(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cut(Cancelled("the client hung up"))

    def _cut(self, cause: TetherError) -> None:
        if self._cause is None and self._task is not None:
            self._cause = cause
            self._task.cancel(CancelCause.CANCELLED)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None  # it ends by an error that holds this
        # A cancellation from elsewhere (the server's shutdown) stays what it is.
        if self._cause is not None and kind is asyncio.CancelledError:
            if self._task is not None:
                self._task.uncancel()
            cause, self._cause = self._cause, None
            try:
                raise cause from None
            finally:
                del cause, error, trace  # each holds this frame, or will
