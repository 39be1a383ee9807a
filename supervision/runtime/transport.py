"""The transport that Thespian asks for, on one asyncio loop and its `Connections`.

An actor's handlers, tasks and timers live on the same loop as Thespian's messages; they rest
only while Thespian's own code runs, which is brief.

Protocol: `thespian.system.multiprocCommon` and `systemBase`, see
docs/adr/0001-actor-runtime.md.
"""

# ruff: noqa: N802, N803, N815  (the names are Thespian's and multiprocessing's)

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import uvloop
from thespian.actors import (
    ActorAddress,
    InvalidActorAddress,
)
from thespian.system.addressManager import ActorLocalAddress, CannotPickleAddress
from thespian.system.messages.convention import CONV_ADDR_IPV4_CAPABILITY
from thespian.system.messages.multiproc import EndpointConnected
from thespian.system.transport import (
    ExternalInterfaceTransportInit,
    SendStatus,
)

from supervision.errors import ProtocolError
from supervision.runtime.address import Address
from supervision.runtime.connections import Connections
from supervision.runtime.options import NodeOptions
from supervision.runtime.peer import Peer
from supervision.runtime.process_loop import ProcessLoop
from supervision.runtime.routes import ListenAddress, Routes
from supervision.runtime.sockets import fresh_name, listens, socket_path
from supervision.runtime.spawning import MAX_STARTING_S, SpawnedProcess
from supervision.runtime.system_road import SystemRoad
from supervision.telemetry import logs

if TYPE_CHECKING:
    from supervision.runtime.node_transport import NodeTransport

ORPHAN_S = 20.0  # an orphan that is still there is ended the hard way

log = logs.get(__name__)


class ProcessSeat(msgspec.Struct, frozen=True):
    """What a process is told of itself when it is started: `addrInst`, Thespian's number for
    it; the address it must have, if that is fixed; its parent and its Admin; and the node that has
    it placed here, if that is another one."""

    addrInst: int | None
    fixed: Address | None
    parent: Address
    admin: Address
    options: NodeOptions
    guardian: str = ""


class Transport(ProcessLoop):
    """One per process of a node, and one per `ActorSystem` (or clone of it) outside."""

    ends_at_once: ClassVar[bool] = False  # when orphaned; else in an orderly way
    road: ClassVar[type[SystemRoad]] = SystemRoad  # Thespian's suite is given another one

    def __init__(self, init: Any, *args: Any) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "Thespian's ActorSystem blocks and can't be made where a loop runs: use "
                "supervision.runtime.Endpoint, or asyncio.to_thread"
            )
        fixed: Address | None = None
        guardian = ""
        self.parent: Address | None = None
        self.placing_for = ""  # the node for which this Admin starts an actor, if another one
        self.lost: set[Address] = set()  # of those that this process ends with
        if isinstance(init, ExternalInterfaceTransportInit):
            self.options = NodeOptions.of(args[0])
            self.admin = self.options.admin
        elif isinstance(init, ProcessSeat):
            self.options, self.admin = init.options, init.admin
            fixed, self.parent, guardian = init.fixed, init.parent, init.guardian
        else:
            self.options, self.admin = init
        loop = uvloop.new_event_loop()
        border = border_of(self.options, fixed)
        if border is not None and isinstance(init, ExternalInterfaceTransportInit):
            border.identity.load()  # whoever starts the node shall hear what is wrong with it
        port = border.port if border is not None else 0
        self.address = address = fixed or Address(self.admin.node, fresh_name(), port)
        self._road = self.road(address, guardian)
        hub = Connections(
            loop, self.options.run_dir, address, max_frame=self.options.max_frame, border=border
        )
        hub.on_system = self._arrived
        hub.guardian = guardian
        super().__init__(loop, hub, ActorAddress(address))
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
            routes = Routes(dict(NodeOptions.of(capabilities).routes))
            return [
                _leader(leader, routes)
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
            guardian=self.placing_for,
        )

    def allows(self, name: str, node: str = "") -> bool:
        """See `NodeOptions.allows`."""
        return self.options.allows(name, node)

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
            self.interrupt_wait(check_children=True)

        self.loop.add_reader(descriptor, ended)
        self.loop.call_later(MAX_STARTING_S, process.settled)

    def end_with(self, address: Address) -> None:
        """Ends this process, in whatever state, soon after the one at `address` is gone."""
        self.hub.watch(address, lambda: self._orphan(address))

    def _orphan(self, above: Address) -> None:
        self.lost.add(above)
        if self.closed or self.orphaned:
            return
        log.warning("ends because the process above it is gone", above=str(above))
        if Transport.ends_at_once:
            self.hub.close()
            os._exit(0)
        self.abandon()

    def abandon(self) -> None:
        """Ends this process without a word to Thespian: those below it are orphans then."""
        self.orphaned = True
        self.allow(0.0)
        self.leave(nothing)

    def allow(self, seconds: float) -> None:
        """Gives an orphan that much more time: should anything keep it from ending after that, a
        watchdog in C won't."""
        if self.orphaned:
            faulthandler.dump_traceback_later(ORPHAN_S + seconds, exit=True)

    def external_transport_clone(self) -> Transport:
        return type(self)((self.options, self.admin))

    def protectedFileNumList(self) -> list[int]:
        return []

    def childResetFileNumList(self) -> list[int]:
        return []  # a spawned process inherits nothing

    def close(self) -> None:
        if self.closed or self.loop.is_running():
            return
        self.closed = True
        atexit.unregister(self.close)
        SpawnedProcess.drop_spares()
        self.hub.close()
        if not self.loop.is_closed():
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    # ---- what Thespian tells

    def setAddressManager(self, manager: Any) -> None:
        self._manager = manager

    def enableRXPauseFlowControl(self, enable: bool = True) -> None:
        """Every peer has its own flow control."""

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
        response.addWakeups([(self.myAddress, timer) for timer in self.wakeups])
        response.addKeyVal("peers", str(len(list(self.hub.peers()))))

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
        if self.closed or not isinstance(address, Address):
            intent.tx_done(SendStatus.DeadTarget)
            return
        if address == self.address:
            # Never as bytes: it may speak of a child that has no address yet.
            message = intent.message
            self.soon(lambda: self.loop.call_soon(lambda: self.deliver(self.myAddress, message)))
            intent.tx_done(SendStatus.Sent)
            return
        payload = self._road.write(intent.message, address)
        if payload is None:
            intent.tx_done(SendStatus.Failed)
            return
        if len(payload) > self.options.max_frame - 64:
            intent.tx_done(SendStatus.Failed)
            raise ProtocolError(
                f"a message of {len(payload)} bytes exceeds the maximum of "
                f"{self.options.max_frame}; raise the capability 'Max Frame'"
            )
        self.soon(lambda: self._transmit(address, payload, intent))

    def _transmit(self, address: Address, payload: bytes, intent: Any) -> None:
        def done(failure: object) -> None:
            intent.tx_done(SendStatus.Sent if failure is None else SendStatus.DeadTarget)
            if failure is not None and type(intent.message) is EndpointConnected:
                self._orphan(address)  # whoever started it is gone, and nobody knows of it

        self.hub.system(address, payload, done)

    # ---- what comes in

    def _arrived(self, peer: Peer, payload: bytes) -> None:
        try:
            message = self._road.read(peer.address, payload)
        except ProtocolError:  # the road has counted it
            return
        self.deliver(ActorAddress(peer.address), message)


def nothing() -> None:
    """For whom there is nothing to do."""


def border_of(options: NodeOptions, fixed: Address | None) -> NodeTransport | None:
    """The transport to other nodes, for a process of a node that has an identity. A `fixed`
    address has its port already.

    Raises:
        OSError: its port is taken.
    """
    if not options.identity_dir:
        return None
    # Imported here: a node that is alone starts its actors without it.
    from supervision.runtime.node_transport import NodeTransport
    from supervision.security.identity import Identity

    listen: ListenAddress | None = None
    if options.listen and (fixed is None or fixed.port):
        listen = ListenAddress.parse(options.listen)
        if fixed is not None:
            listen = ListenAddress(listen.host, fixed.port, fixed.port)
    kept = Path(options.revoked_dir) if options.revoked_dir else None
    identity = Identity(Path(options.identity_dir), options.node, kept=kept)
    return NodeTransport(identity, Routes(dict(options.routes)), listen)


def _leader(leader: Any, routes: Routes) -> Any:
    """The Admin of a leader; one that is given by host and port is looked up among the routes."""
    if not (isinstance(leader, str) and leader.count("/") == 2):
        host, port = leader if isinstance(leader, tuple) else leader.rsplit(":", 1)
        node = routes.node_at(host, int(port))
        if node is not None:
            return ActorAddress(Address.admin(node, int(port)))
    return Transport.getAddressFromString(leader)
