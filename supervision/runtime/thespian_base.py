"""The system base "tether": unmodified Thespian on our transport.

`ActorSystem("tether", capabilities)` starts a node's Admin or joins the one that runs; see
`supervision.runtime.options` for the capabilities. Importing `supervision.runtime` makes the name
known.
"""

# ruff: noqa: N802, N803, N815  (the names are Thespian's and multiprocessing's)

from __future__ import annotations

import faulthandler
import os
import sys
from datetime import timedelta
from typing import Any, Final

from thespian.actors import ActorExitRequest, InvalidActorSpecification
from thespian.system import multiprocCommon
from thespian.system.addressManager import ActorLocalAddress
from thespian.system.messages.admin import PendingActorResponse, SystemShutdown
from thespian.system.multiprocCommon import MultiProcAdmin, MultiProcManager, multiprocessCommon
from thespian.system.transport import TransmitIntent, TransmitOnly

from supervision.contracts import ActorFound, ConventionShown, FindActor, KillPlaced, ShowConvention
from supervision.runtime.address import Address
from supervision.runtime.convention import Convention
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import handlers_of, on
from supervision.runtime.placements import Placements, guardian_of
from supervision.runtime.spawning import SpawnContext, SpawnedProcess, serving_now, set_up
from supervision.runtime.transport import Transport
from supervision.security.audience import NODE, OPERATOR, OWN
from supervision.telemetry import logs
from supervision.telemetry.bounded_log import BoundedLog

NAME: Final = "tether"
VERSION: Final = 1
ADMIN_START_S: Final = 60.0  # until an Admin that is being started says so
END_S: Final = 10.0  # from the last message of an actor to the end of its process
LAST_WORDS_S: Final = 2.0  # how long an Admin that ends waits for its messages to arrive
MAX_QUESTIONS: Final = 256  # that an Admin answers at once
REFUSED: Final = "is not on the list of the capability 'Actor Classes'"
NOT_PLACED: Final = "is not started here for another node: see the capability 'Placed Classes'"

log = logs.get(__name__)
heard = BoundedLog(__name__)


def class_name(actor_class: Any) -> str:
    """`module.Class`, the way Thespian writes it."""
    if isinstance(actor_class, str):
        return actor_class
    return f"{actor_class.__module__}.{actor_class.__name__}"


class _Allowing:
    """Starts no class that the node's options don't allow."""

    transport: Transport

    def _startChildActor(self, childAddr: Any, childClass: Any, *args: Any, **kwargs: Any) -> None:
        name = class_name(childClass)
        if not self.transport.allows(name):
            raise InvalidActorSpecification(name, REFUSED)
        super()._startChildActor(childAddr, childClass, *args, **kwargs)  # type: ignore[misc]

    def h_EndpointConnected(self, envelope: Any) -> Any:
        process = self.child_process(envelope.message.childInstance)
        if process is not None:
            process.settled()
        return super().h_EndpointConnected(envelope)  # type: ignore[misc]

    def child_process(self, instance: int) -> SpawnedProcess | None:
        """The process of the child that Thespian counts as `instance`, while it lives."""
        for child in getattr(self, "_child_procs", []):
            if child.childNum == instance:
                return child.childProc  # type: ignore[no-any-return]
        return None


class TetherAdmin(_Allowing, MultiProcAdmin):
    """Thespian's Admin, which starts what the node allows, for whom it may."""

    def run(self) -> None:
        options = self.transport.options
        SpawnedProcess.on_start = self.transport.watch_process
        if getattr(self, "asLogProc", None):
            self.transport.watch_process(self.asLogProc.childProc)
        if options.owner_pid:
            self._watch_owner(options.owner_pid)
        serving_now()
        self._neighbours = Convention(self)
        self._placements = Placements(self.transport.hub, self._nannying)
        Dispatch(self.transport.hub, handlers_of(self), MAX_QUESTIONS, "the Admin").begin()
        try:
            super().run()
            # Thespian goes as soon as its own starter knows; others may still have to hear of
            # exits, and of the end of the node.
            self.transport.hub.withdraw()
            self.transport.run(TransmitOnly, timedelta(seconds=LAST_WORDS_S))
        finally:
            self.transport.close()

    @on(FindActor, of=NODE | OPERATOR)
    def _find_actor(self, msg: FindActor, sender: Address) -> ActorFound:
        found = self._globalNames.get(msg.name)
        return ActorFound(address=str(found.addressDetails) if found is not None else "")

    @on(ShowConvention, of=OWN)
    def _show_convention(self, msg: ShowConvention, sender: Address) -> ConventionShown:
        return self._neighbours.shown()

    @on(KillPlaced, of=NODE)
    def _kill_placed(self, msg: KillPlaced, sender: Address) -> None:
        self._placements.end(msg.pid, sender)

    def _not_compatible(self, envelope: Any) -> Any:
        request = envelope.message
        if request.forActor is None:  # else it has been sent to another node already
            request.asked_at = self.myAddress
        return super()._not_compatible(envelope)

    def _pendingActorReady(self, childInstance: int, actualAddress: Any) -> None:
        guardian = None
        if childInstance in self._pendingChildren:  # it is a list once the node shuts down
            guardian = guardian_of(self._pendingChildren[childInstance][0].message)
        super()._pendingActorReady(childInstance, actualAddress)
        if guardian is not None:
            self._placements.nurse(actualAddress.addressDetails, guardian)

    def h_ConventionRegister(self, envelope: Any) -> Any:
        outcome = super().h_ConventionRegister(envelope)
        self._neighbours.registered(envelope.message.adminAddress.addressDetails)
        return outcome

    def _watch_owner(self, pid: int) -> None:
        transport = self.transport

        def ended() -> None:
            transport.loop.remove_reader(descriptor)
            os.close(descriptor)
            log.warning("shuts down because its owner is gone", owner=pid)
            transport.deliver(transport.myAddress, SystemShutdown())

        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            transport.loop.call_soon(transport.deliver, transport.myAddress, SystemShutdown())
            return
        transport.loop.add_reader(descriptor, ended)

    def h_PendingActor(self, envelope: Any) -> Any:
        request = envelope.message
        name = class_name(request.actorClassName)
        options = self.transport.options
        asked_by = envelope.sender.addressDetails.node
        allowed = self.transport.allows(name, asked_by)
        if not allowed and request.globalName not in self._globalNames:
            heard.warning(
                "refused to start an actor", asked_by, actor=name, sender=str(envelope.sender)
            )
            why = NOT_PLACED if self.transport.allows(name) else REFUSED
            self._fail(envelope, PendingActorResponse.ERROR_Invalid_ActorClass, f"{name} {why}")
            return True
        if why := self._placements.refusal(envelope.sender.addressDetails, options):
            heard.warning(
                "refused to place an actor", asked_by, actor=name, sender=str(envelope.sender)
            )
            self._fail(envelope, PendingActorResponse.ERROR_Invalid_ActorClass, why)
            return True
        pending = set(self._pendingChildren)
        guardian = guardian_of(request)
        asking = guardian.node if guardian is not None else ""
        self.transport.placing_for = asking if asking != self.transport.address.node else ""
        try:
            outcome = super().h_PendingActor(envelope)
        finally:
            self.transport.placing_for = ""
        for instance in set(self._pendingChildren) - pending:
            # Thespian keeps a request that failed, and with it the global name.
            if self.child_process(instance) is None:
                del self._pendingChildren[instance]
        return outcome

    def _handleChildExited(self, childAddr: Any) -> Any:
        if isinstance(childAddr.addressDetails, Address):
            self._placements.ended(childAddr.addressDetails)
        return super()._handleChildExited(childAddr)

    def h_ChildActorExited(self, envelope: Any) -> Any:
        details = envelope.message.childAddress.addressDetails
        if isinstance(details, ActorLocalAddress) and self._pendingChildren:
            # It never came up, and whoever waits for it would wait on.
            for waiting in self._pendingChildren.pop(details.addressInstanceNum, ()):
                self._fail(
                    waiting,
                    PendingActorResponse.ERROR_Import,
                    f"the process of {waiting.message.actorClassName} ended before it was up",
                )
        return super().h_ChildActorExited(envelope)

    def _fail(self, envelope: Any, code: int, why: str) -> None:
        self._sendPendingActorResponse(envelope, None, errorCode=code, errorStr=why)


class TetherManager(_Allowing, MultiProcManager):
    """Thespian's manager of one actor, in the actor's own process."""

    def _createInstance(self) -> None:
        SpawnedProcess.on_start = self.transport.watch_process
        super()._createInstance()
        serving_now()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.transport.close()
            # A thread that won't end must not keep the process: it has said goodbye.
            faulthandler.dump_traceback_later(END_S, exit=True)

    def _shutdownActor(self, shutdownChildren: bool = True) -> Any:
        SpawnedProcess.forget_waiting()
        return super()._shutdownActor(shutdownChildren)

    def _pendingActorReady(
        self, childInstance: int, actualAddress: Any, isMyChild: bool = True
    ) -> None:
        super()._pendingActorReady(childInstance, actualAddress, isMyChild)
        if getattr(self, "_exiting", False) and isMyChild:
            # Thespian told the others before this one was up, and would wait for it for ever.
            self._send_intent(
                TransmitIntent(
                    actualAddress,
                    ActorExitRequest(recursive=True),
                    onError=lambda _, intent: self._childInaccessible(actualAddress, intent),
                )
            )
        came_up = getattr(self.actorInst, "child_came_up", None)
        if came_up is not None:
            came_up(childInstance, actualAddress.addressDetails)


class ActorSystemBase(multiprocessCommon):
    """What `ActorSystem("tether")` makes: the door into a node for code that isn't async. Use
    `supervision.runtime.Endpoint` where a loop runs."""

    transportType = Transport

    def __init__(self, system: Any, logDefs: Any = None) -> None:
        system.capabilities["Thespian ActorSystem Name"] = NAME
        system.capabilities["Thespian ActorSystem Version"] = VERSION
        system.capabilities["Thespian Watch Supported"] = True
        super().__init__(system, _portable(logDefs))

    @property
    def mpcontext(self) -> SpawnContext:
        """Thespian would choose fork, which is unsound with a loop that runs."""
        return _context

    @mpcontext.setter
    def mpcontext(self, _: Any) -> None:
        pass

    def _startAdmin(self, *args: Any) -> None:
        started: list[SpawnedProcess] = []
        SpawnedProcess.on_start = started.append
        try:
            super()._startAdmin(*args)
        finally:
            SpawnedProcess.on_start = None
            for process in started:
                process.join()  # it forked the Admin and ended; leave no zombie


def _portable(log_definitions: Any) -> Any:
    """A logging configuration that may hold our standard streams, as one that another process
    can take over."""
    if isinstance(log_definitions, dict):
        return {key: _portable(value) for key, value in log_definitions.items()}
    if log_definitions is sys.stdout:
        return "ext://sys.stdout"
    if log_definitions is sys.stderr:
        return "ext://sys.stderr"
    return log_definitions


def start_admin(admin_class: Any, *args: Any) -> None:
    """Thespian's `startAdmin`, with our Admin."""
    set_up()
    multiprocCommon.startAdmin(TetherAdmin, *args)


def start_child(*args: Any) -> None:
    """Thespian's `startChild`, with our manager."""
    set_up()
    multiprocCommon.MultiProcManager = TetherManager
    multiprocCommon.startChild(*args)


def start_logger(*args: Any) -> None:
    """Thespian's logger, which knows no end but a message of its Admin's."""
    set_up()
    Transport.ends_at_once = True
    multiprocCommon.startupASLogger(*args)


_context: Final = SpawnContext()
SpawnedProcess.entries = {
    multiprocCommon.startAdmin: start_admin,
    multiprocCommon.startChild: start_child,
    multiprocCommon.startupASLogger: start_logger,
}

# Five seconds, as Thespian has it, are too few for a machine that is busy with other things.
multiprocCommon.MAX_ADMIN_STARTUP_DELAY = timedelta(seconds=ADMIN_START_S)

sys.modules[f"thespian.system.{NAME}"] = sys.modules[__name__]
