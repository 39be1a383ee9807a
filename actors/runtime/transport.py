"""What Thespian asks of a transport, on one asyncio loop and a hub.

Thespian drives everything by `run(handler, duration)`, which here is the loop running until
there is a result for Thespian. An actor's handlers, tasks and timers live on the same loop;
they rest only while Thespian's code runs between two calls of `run`, which is brief.

Protocol: `thespian.system.multiprocCommon` and `systemBase`, see docs/adr/0001.
"""

# ruff: noqa: N802, N803, N815  (the names are Thespian's and multiprocessing's)

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import uvloop
from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    ChildActorExited,
    InvalidActorAddress,
    WakeupMessage,
    WatchMessage,
)
from thespian.system.addressManager import ActorLocalAddress, CannotPickleAddress
from thespian.system.messages.convention import CONV_ADDR_IPV4_CAPABILITY
from thespian.system.messages.multiproc import ChildMayHaveDied
from thespian.system.timing import ExpirationTimer, timePeriodSeconds
from thespian.system.transport import (
    ExternalInterfaceTransportInit,
    ReceiveEnvelope,
    SendStatus,
    Thespian__Run_Errored,
    Thespian__Run_Expired,
    Thespian__Run_HandlerResult,
    Thespian__Run_Terminated,
    TransmitIntent,
    TransmitOnly,
)

from actors.runtime import unpickler
from actors.runtime.address import Address
from actors.runtime.hub import Hub
from actors.runtime.options import NodeOptions
from actors.runtime.peer import Peer
from actors.runtime.sockets import fresh_name, listens, socket_path
from actors.runtime.spawning import MAX_STARTING_S, SpawnedProcess
from tether.errors import ProtocolError
from tether.telemetry import logs

ORPHAN_S = 20.0  # an orphan that is still there is ended the hard way
DRAIN_S = 5.0  # how long an exit waits for the last messages to be acknowledged
_TICK_S = 0.001

log = logs.get(__name__)


class ProcessSeat(msgspec.Struct, frozen=True):
    """What a process is told of itself when it is started: `addrInst`, Thespian's number for
    it; the address it must have, if that is fixed; its parent and its Admin."""

    addrInst: int | None
    fixed: Address | None
    parent: Address
    admin: Address
    options: NodeOptions


class Transport:
    """One per process of a node, and one per `ActorSystem` (or clone of it) outside."""

    ends_at_once: ClassVar[bool] = False  # when orphaned; else in an orderly way

    def __init__(self, init: Any, *args: Any) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "Thespian's ActorSystem blocks and can't be made where a loop runs: use "
                "actors.runtime.Endpoint, or asyncio.to_thread"
            )
        fixed: Address | None = None
        self.parent: Address | None = None
        if isinstance(init, ExternalInterfaceTransportInit):
            self.options = NodeOptions.of(args[0])
            self.admin = self.options.admin
        elif isinstance(init, ProcessSeat):
            self.options, self.admin = init.options, init.admin
            fixed, self.parent = init.fixed, init.parent
        else:
            self.options, self.admin = init
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        address = fixed or Address(self.admin.node, fresh_name())
        self.hub = Hub(self.loop, self.options.run_dir, address, max_frame=self.options.max_frame)
        self.hub.on_system = self._arrived
        self.address = address
        self.myAddress = ActorAddress(address)
        self.exit_gate: Callable[[Callable[[], None]], None] | None = None
        self._thread = threading.get_ident()
        self._inbox: deque[Any] = deque()
        self._handler: Any = None
        self._running = self._closed = self._orphaned = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._abort: bool | None = None
        self._draining = 0.0
        self._exit_asked = self._children_asked = False
        self._watched: set[int] = set()
        self._wakeups: list[Any] = []
        self.loop.run_until_complete(self.hub.start())
        if self.parent is not None and address != self.admin:
            self.end_with(self.admin)
        atexit.register(self.close)

    # ---- addresses

    @staticmethod
    def getAdminAddr(capabilities: dict[str, Any]) -> Any:
        return ActorAddress(NodeOptions.of(capabilities).admin)

    @staticmethod
    def getAddressFromString(spec: Any, adminRouting: bool = False) -> Any:
        """The Admin at "host:port", (host, port) or "node/admin/port"."""
        if isinstance(spec, str) and spec.count("/") == 2:
            return ActorAddress(Address.parse(spec))
        host, port = spec if isinstance(spec, tuple) else spec.rsplit(":", 1)
        return ActorAddress(NodeOptions.at(host, int(port)))

    @staticmethod
    def getConventionAddress(capabilities: dict[str, Any]) -> Any:
        leaders = capabilities.get(CONV_ADDR_IPV4_CAPABILITY)
        if not leaders:
            return None
        try:
            return [
                Transport.getAddressFromString(leader)
                for leader in (leaders if isinstance(leaders, list) else [leaders])
            ]
        except (ValueError, TypeError) as error:
            raise InvalidActorAddress(leaders, str(error)) from error

    def probeAdmin(self, address: Any) -> bool:
        """Does an Admin listen there?"""
        return listens(socket_path(self.options.run_dir, address.addressDetails))

    # ---- processes

    def prepEndpoint(self, assigned: Any, capabilities: dict[str, Any]) -> ProcessSeat:
        details = assigned.addressDetails
        local = isinstance(details, ActorLocalAddress)
        return ProcessSeat(
            addrInst=details.addressInstanceNum if local else None,
            fixed=None if local else details,
            parent=self.address,
            admin=self.admin,
            options=self.options,
        )

    def connectEndpoint(self, endpoint: ProcessSeat) -> None:
        """The process of `endpoint` was started just before."""

    def watch_process(self, process: SpawnedProcess) -> None:
        """Asks Thespian to look after its children when `process` ends. SIGCHLD alone can't be
        trusted: libuv takes it over as soon as an actor starts a subprocess."""
        pid = process.pid
        assert pid is not None
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            self.interrupt_wait(check_children=True)
            return

        def ended() -> None:
            self.loop.remove_reader(descriptor)
            os.close(descriptor)
            self.hub.sweep_sockets(pid)
            process.settled()
            self._children_asked = True
            self._indicate()

        self.loop.add_reader(descriptor, ended)
        self.loop.call_later(MAX_STARTING_S, process.settled)

    def end_with(self, address: Address) -> None:
        """Ends this process, in whatever state, soon after the one at `address` is gone."""

        def orphan() -> None:
            if not self._closed and not self._orphaned:
                self._orphaned = True
                log.warning("ends because the process above it is gone", above=str(address))
                # Should anything keep it from ending, a watchdog in C won't.
                faulthandler.dump_traceback_later(ORPHAN_S, exit=True)
                if Transport.ends_at_once:
                    self.hub.close()
                    os._exit(0)
                self._leave(lambda: self._stop(Thespian__Run_Terminated()))

        self.hub.watch(address, orphan)

    def external_transport_clone(self) -> Transport:
        return Transport((self.options, self.admin))

    def protectedFileNumList(self) -> list[int]:
        return []

    def childResetFileNumList(self) -> list[int]:
        return []  # a spawned process inherits nothing

    def close(self) -> None:
        if self._closed or self.loop.is_running():
            return
        self._closed = True
        atexit.unregister(self.close)
        self.hub.close()
        if not self.loop.is_closed():
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    # ---- what Thespian tells

    def setAddressManager(self, manager: Any) -> None:
        self._manager = manager

    def enableRXPauseFlowControl(self, enable: bool = True) -> None:
        """Every peer has its own flow control."""

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

    def deadAddress(self, _manager: Any, address: Any) -> None:
        details = getattr(address, "addressDetails", None)
        if isinstance(details, Address):
            peer = self.hub.known(details)
            if peer is not None:
                peer.abandon()  # its connection stays: an acknowledgement may be on its way

    def lostRemote(self, address: Any) -> None:
        node = address.addressDetails.node
        if node != self.address.node:
            for peer in [p for p in self.hub.peers() if p.address.node == node]:
                peer.abandon()

    def _updateStatusResponse(self, response: Any) -> None:
        response.addWakeups([(self.myAddress, timer) for timer in self._wakeups])
        response.addKeyVal("peers", str(len(list(self.hub.peers()))))

    def addWakeup(self, period: Any, payload: Any) -> None:
        timer = ExpirationTimer(period)
        self._wakeups.append(timer)

        def wake() -> None:
            self._wakeups.remove(timer)
            self.deliver(self.myAddress, WakeupMessage(period, payload))

        self._soon(lambda: self.loop.call_later(max(0, timePeriodSeconds(period)), wake))

    # ---- what goes out

    def scheduleTransmit(self, manager: Any, intent: Any, _exclusive: bool = False) -> None:
        """
        Raises:
            CannotPickleAddress: the message or its target is a child that isn't up yet.
        """
        if manager is not None:
            target, message = manager.prepMessageSend(intent.targetAddr, intent.message)
            if isinstance(message, SendStatus.BASE):
                intent.tx_done(SendStatus.Sent)
                return
            if not target:
                raise CannotPickleAddress(intent.targetAddr)
            intent.changeTargetAddr(target)
            intent.changeMessage(message)
        address = intent.targetAddr.addressDetails
        if self._closed or not isinstance(address, Address):
            intent.tx_done(SendStatus.DeadTarget)
            return
        if address == self.address:
            # Never pickled: it may speak of a child that has no address yet.
            message = intent.message
            self._soon(lambda: self.loop.call_soon(lambda: self.deliver(self.myAddress, message)))
            intent.tx_done(SendStatus.Sent)
            return
        payload = unpickler.dumps(intent.message)
        if len(payload) > self.options.max_frame - 64:
            intent.tx_done(SendStatus.Failed)
            raise ProtocolError(
                f"a message of {len(payload)} bytes exceeds the maximum of "
                f"{self.options.max_frame}; raise the capability 'Max Frame'"
            )
        self._soon(lambda: self._transmit(address, payload, intent))

    def _transmit(self, address: Address, payload: bytes, intent: Any) -> None:
        self.hub.system(
            address,
            payload,
            lambda failure: intent.tx_done(
                SendStatus.Sent if failure is None else SendStatus.DeadTarget
            ),
        )

    def _soon(self, call: Callable[[], object]) -> None:
        """Calls at once, or on the loop if another thread runs it."""
        if self.loop.is_running() and threading.get_ident() != self._thread:
            self.loop.call_soon_threadsafe(call)
        else:
            call()

    # ---- what comes in

    def _arrived(self, peer: Peer, payload: bytes) -> None:
        try:
            message = unpickler.loads(payload, trusting=self.options.allow_pickle)
        except ProtocolError as error:
            log.warning("refused a system message", peer=str(peer.address), reason=error.message)
            return
        self.deliver(ActorAddress(peer.address), message)

    def deliver(self, sender: Any, message: Any) -> None:
        """Hands a message to Thespian, now or when it next asks for one."""
        if type(message) is ActorExitRequest and self.exit_gate is not None:
            self._leave(lambda: self._deliver(ReceiveEnvelope(sender, message)))
        else:
            self._deliver(ReceiveEnvelope(sender, message))

    def _leave(self, then: Callable[[], None]) -> None:
        """Lets the actor finish in its own way first, once."""
        gate, self.exit_gate = self.exit_gate, None
        if gate is None:
            then()
        else:
            gate(then)

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
            self._stop(envelope)
            return
        try:
            outcome = handler(envelope)
        except BaseException as error:
            self._error = error
            self._stop(Thespian__Run_Errored(error))
            return
        if not outcome:
            if self._abort and self.hub.pending:
                # Thespian's Admin doesn't drain after this, so it is done here.
                self._draining = time.monotonic() + DRAIN_S
                self._drained()
            else:
                self._stop(Thespian__Run_HandlerResult(outcome))

    # ---- running

    def run(self, handler: Any, maximumDuration: Any = None) -> Any:
        sending = handler is TransmitOnly or isinstance(handler, TransmitOnly)
        if sending and (self._orphaned or self._closed):
            return 0
        self._thread = threading.get_ident()
        self._handler = TransmitOnly if sending else handler
        self._result = self._error = self._abort = None
        self._draining = 0.0
        self._running = True
        timer: asyncio.TimerHandle | None = None
        try:
            if sending:
                self.loop.call_soon(self._sent)
            while not sending and self._inbox and self._result is None:
                self._deliver(self._inbox.popleft())
            if maximumDuration is not None:
                seconds = max(0.0, timePeriodSeconds(maximumDuration))
                timer = self.loop.call_later(seconds, self._stop, Thespian__Run_Expired())
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

    def _stop(self, result: Any) -> None:
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
            self._soon(lambda: self.loop.call_soon(self._drained))

    def _drained(self) -> None:
        """Ends the run as soon as nothing is on its way any more, if an end was asked for."""
        if self._abort is None or not self._running or self._handler is TransmitOnly:
            return
        if self._abort and self.hub.pending and not self._orphaned:
            self._draining = self._draining or time.monotonic() + DRAIN_S
            if time.monotonic() < self._draining:
                self.loop.call_later(_TICK_S, self._drained)
                return
        self._abort = None
        self._stop(Thespian__Run_Terminated())

    def _sent(self) -> None:
        if self._running and self._handler is TransmitOnly:
            if self.hub.pending and not self._orphaned:
                self.loop.call_later(_TICK_S, self._sent)
            else:
                self._stop(Thespian__Run_HandlerResult(0))


def told_of_exit(message: Any) -> Address | None:
    """The child that a ChildActorExited speaks of, if it had come up."""
    if isinstance(message, ChildActorExited):
        details = getattr(message.childAddress, "addressDetails", None)
        if isinstance(details, Address):
            return details
    return None


def intent(address: Address, message: Any) -> Any:
    """A system message on its way to `address`."""
    return TransmitIntent(ActorAddress(address), message)
