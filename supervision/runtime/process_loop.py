"""The loop of a process: Thespian's way of running one, on top of asyncio.

Thespian calls `run(handler, duration)` and gets control back when a handler says so, when
the time is over or when an end was asked for. Here that is the loop running until there is
such a result. Messages that arrive meanwhile go to the handler at once; those that arrive
between two runs wait for the next.
"""

# ruff: noqa: N802, N803  (the names are Thespian's)

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from thespian.actors import ActorExitRequest, WakeupMessage, WatchMessage
from thespian.system.messages.multiproc import ChildMayHaveDied
from thespian.system.timing import ExpirationTimer, timePeriodSeconds
from thespian.system.transport import (
    ReceiveEnvelope,
    Thespian__Run_Errored,
    Thespian__Run_Expired,
    Thespian__Run_HandlerResult,
    Thespian__Run_Terminated,
    TransmitOnly,
)

from supervision.runtime.connections import Connections

DRAIN_S: Final = 5.0  # how long an exit waits for the last messages to be acknowledged
_TICK_S: Final = 0.001


class ProcessLoop:
    """The half of a transport that takes messages and time to Thespian.

    `exit_gate` is how an actor gets its chance to finish before Thespian hears of the request
    to exit: it is called once, with what to call when the actor is ready.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: Connections, address: Any) -> None:
        self.loop = loop
        self.hub = hub
        self.myAddress = address
        self.exit_gate: Callable[[Callable[[], None]], None] | None = None
        self.wakeups: list[Any] = []
        self.closed = False
        self.orphaned = False  # nobody is left to whom anything need be sent
        self._leavers: list[Callable[[], None]] | None = None  # while the actor finishes
        self._left = False  # an orphan, that has finished
        self._thread = threading.get_ident()
        self._inbox: deque[Any] = deque()
        self._handler: Any = None
        self._running = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._abort: bool | None = None
        self._draining = 0.0
        self._exit_asked = self._children_asked = False
        self._watched: set[int] = set()

    def run(self, handler: Any, maximumDuration: Any = None) -> Any:
        sending = handler is TransmitOnly or isinstance(handler, TransmitOnly)
        if sending and (self.orphaned or self.closed):
            return 0
        if self._left and not sending:
            return Thespian__Run_Terminated()  # it was told while nothing ran
        self._thread = threading.get_ident()
        self._handler = TransmitOnly if sending else handler
        self._result = self._error = self._abort = None
        self._draining = 0.0
        self._running = True
        timer: asyncio.TimerHandle | None = None
        try:
            if sending:
                self.loop.call_soon(self._sent)
            # What is delivered while it drains goes back into the inbox, for the next run.
            while not sending and self._inbox and self._result is None and not self._draining:
                self._deliver(self._inbox.popleft())
            if maximumDuration is not None:
                seconds = max(0.0, timePeriodSeconds(maximumDuration))
                timer = self.loop.call_later(seconds, self.stop, Thespian__Run_Expired())
            self._indicate()
            while self._result is None:
                self.loop.run_forever()
            if self._error is not None:
                raise self._error
            if sending:
                expired = isinstance(self._result, Thespian__Run_Expired)
                return 1 if expired and self.hub.pending else 0
            return self._result
        finally:
            self._running = False
            if timer is not None:
                timer.cancel()

    def stop(self, result: Any) -> None:
        # Stopping a loop that doesn't run would end the next run_forever at once.
        if self._running and self._result is None:
            self._result = result
            if self.loop.is_running():
                self.loop.stop()

    def interrupt_wait(self, signal_shutdown: bool = False, check_children: bool = False) -> None:
        self._exit_asked |= signal_shutdown
        self._children_asked |= check_children
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._indicate)

    def _indicate(self) -> None:
        if self._children_asked and self._running:
            self._children_asked = False
            self.deliver(self.myAddress, ChildMayHaveDied())
        if self._exit_asked and self._running:
            self._exit_asked = False
            self.deliver(self.myAddress, ActorExitRequest())

    def abort_run(self, drain: bool = False) -> None:
        self._abort = drain
        if self._running:
            self.soon(lambda: self.loop.call_soon(self._drained))

    def _drained(self) -> None:
        """Ends the run as soon as nothing is on its way any more, if an end was asked for."""
        if self._abort is None or not self._running or self._handler is TransmitOnly:
            return
        if self._abort and self.hub.pending and not self.orphaned:
            self._draining = self._draining or time.monotonic() + DRAIN_S
            if time.monotonic() < self._draining:
                self.loop.call_later(_TICK_S, self._drained)
                return
        self._abort = None
        self.stop(Thespian__Run_Terminated())

    def _sent(self) -> None:
        if self._running and self._handler is TransmitOnly:
            if self.hub.pending and not self.orphaned:
                self.loop.call_later(_TICK_S, self._sent)
            else:
                self.stop(Thespian__Run_HandlerResult(0))

    # ---- messages

    def deliver(self, sender: Any, message: Any) -> None:
        """Hands a message to Thespian, now or when it next asks for one."""
        if type(message) is ActorExitRequest:
            self.leave(lambda: self._deliver(ReceiveEnvelope(sender, message)))
        else:
            self._deliver(ReceiveEnvelope(sender, message))

    def leave(self, then: Callable[[], None]) -> None:
        """Lets the actor finish in its own way first, once; whoever asks meanwhile waits too."""
        gate, self.exit_gate = self.exit_gate, None
        if self._leavers is not None:
            self._leavers.append(then)
        elif gate is None:
            self._leave([then])
        else:
            self._leavers = [then]
            gate(self._finished)

    def _finished(self) -> None:
        leavers, self._leavers = self._leavers or [], None
        self._leave(leavers)

    def _leave(self, leavers: list[Callable[[], None]]) -> None:
        if self.orphaned:  # and Thespian needn't know
            self._left = True
            self.stop(Thespian__Run_Terminated())
            return
        for then in leavers:
            then()

    def _deliver(self, envelope: Any) -> None:
        handler = self._handler
        if (
            not self._running
            or self._result is not None
            or self._draining
            or handler is TransmitOnly
        ):
            self._inbox.append(envelope)
            return
        if handler is None:
            self.stop(envelope)
            return
        try:
            outcome = handler(envelope)
        except BaseException as error:
            self._error = error
            self.stop(Thespian__Run_Errored(error))
            return
        if not outcome:
            if self._abort and self.hub.pending:
                # Thespian's Admin doesn't drain after this, so it is done here.
                self._draining = time.monotonic() + DRAIN_S
                self._drained()
            else:
                self.stop(Thespian__Run_HandlerResult(outcome))

    # ---- time and descriptors

    def addWakeup(self, period: Any, payload: Any) -> None:
        timer = ExpirationTimer(period)
        self.wakeups.append(timer)

        def wake() -> None:
            self.wakeups.remove(timer)
            self.deliver(self.myAddress, WakeupMessage(period, payload))

        self.soon(lambda: self.loop.call_later(max(0, timePeriodSeconds(period)), wake))

    def set_watch(self, descriptors: list[int]) -> None:
        for descriptor in self._watched - set(descriptors):
            self.loop.remove_reader(descriptor)
        for descriptor in set(descriptors) - self._watched:
            self.loop.add_reader(descriptor, self._readable, descriptor)
        self._watched = set(descriptors)

    def _readable(self, descriptor: int) -> None:
        # One message a time; Thespian asks again after each.
        self.loop.remove_reader(descriptor)
        self._watched.discard(descriptor)
        self.deliver(self.myAddress, WatchMessage([descriptor]))

    def soon(self, call: Callable[[], object]) -> None:
        """Calls at once, or on the loop if another thread runs it."""
        if self.loop.is_running() and threading.get_ident() != self._thread:
            self.loop.call_soon_threadsafe(call)
        else:
            call()
