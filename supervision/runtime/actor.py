"""Actors with a loop: handlers for contracts, asks, streams, children, an orderly end::

    from supervision.child import Supervised
    from supervision.contracts import ControlMessage
    from supervision.runtime import Address, on

    class Add(ControlMessage, frozen=True):
        n: int

    class Counter(Supervised):
        total = 0

        @on(Add)
        def add(self, msg: Add, sender: Address) -> Add:
            self.total += msg.n
            return Add(n=self.total)

Whoever has its address asks it, `await actor.ask(address, Add(n=2))`; `Counter.spec(id="counter")`
among the children of a supervisor keeps it running.

An actor's `__init__` runs before it is part of anything; use `started`. Thespian's own
messages keep going to `receiveMessage`, of which only child exits concern us.
"""

# ruff: noqa: N802  (the names are Thespian's and multiprocessing's)

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeVar

from thespian.actors import Actor as ThespianActor
from thespian.actors import ActorExitRequest, ChildActorExited

from supervision.capability import Capability, meets
from supervision.contracts import Contract, KillPlaced
from supervision.contracts.operating import Inspect, Resume, SetLogLevel, ShowStats, Suspend
from supervision.errors import Forbidden, Overloaded, Unavailable
from supervision.runtime import metrics
from supervision.runtime.address import Address, address_of
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.connections import Connections
from supervision.runtime.created_processes import CreatedProcesses
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import handlers_of, on
from supervision.runtime.introspection import Introspection
from supervision.runtime.options import DEFAULT_PORT, NodeOptions
from supervision.runtime.streams import Stream
from supervision.runtime.thespian_base import REFUSED, TetherManager, class_name
from supervision.runtime.transport import Transport
from supervision.security.audience import OPERATOR, PLACER
from supervision.telemetry import bounds, disk, logs
from supervision.telemetry.bounded_log import BoundedLog

MAX_BACKGROUND: Final = 4096
MEASURE_S: Final = 5.0  # between two looks at how full the bounds are

log = logs.get(__name__)
heard = BoundedLog(__name__)
_handlers_used = bounds.used.labels("actor_handlers")
_background_used = bounds.used.labels("actor_background")
_refused_background = bounds.refused.labels("actor_background")
_Result = TypeVar("_Result")


class Actor(ThespianActor):
    """Derive from it, mark handlers with `on`, override `started` and `stopping`."""

    max_handlers: ClassVar[int] = 4096
    stop_timeout_s: ClassVar[float] = 5.0
    start_timeout_s: ClassVar[float] = 60.0
    ends_with_parent: ClassVar[bool] = True

    loop: asyncio.AbstractEventLoop
    address: Address
    pid: int
    _leaving: bool

    # ---- to override

    async def started(self) -> None:
        """Called once, on the loop, before any contract is handled. Raising ends the actor."""

    async def stopping(self) -> None:
        """Called once before an orderly end if the actor had started, with `stop_timeout_s` to go.
        Handlers still run and requests are still taken until it returns; then both end."""

    async def turn(self) -> None:
        """Called once before `stopping`, and awaited however long it takes: it has to have a bound
        of its own. Handlers run."""

    def on_child_exited(self, address: Address) -> None:
        """The process of a child is gone, for whatever reason. Called once a child."""

    def described(self) -> dict[str, object]:
        """What an operator who inspects this actor shall see of its own figures."""
        return {}

    # ---- to use

    @property
    def node_options(self) -> NodeOptions:
        """What the capabilities of this process's node say about its runtime."""
        return self._transport.options

    @property
    def orphaned(self) -> bool:
        """Is the process above gone? Then this one ends, and its successor may run already."""
        return self._transport.orphaned

    async def ask(self, address: Address | str, contract: Contract, timeout: float = 5.0) -> Any:
        """The answer of the actor at `address`, or None if it answers with nothing.

        Raises:
            NoAnswer: none came within `timeout` seconds; the other side stops too.
            PeerLost: its process is gone.
            TetherError: what its handler raised; `Internal` for anything unexpected.
        """
        return await self._hub.ask(address_of(address), contract, timeout)

    def stream(self, address: Address | str, contract: Contract, credit: int = 64) -> Stream:
        """Opens a stream: iterate over it with `async for`. At most `credit` items are under
        way. Leaving it before its end cancels the other side.

        Raises:
            PeerLost: its process is gone (while iterating).
            TetherError: what its handler raised (while iterating).
            Overloaded: too much waits for it already (at once).
        """
        return self._hub.stream(address_of(address), contract, credit)

    def tell(self, address: Address | str, contract: Contract) -> None:
        """Sends without waiting for anything; no sign of loss.

        Raises:
            Overloaded: too much waits for a reader that is too slow.
        """
        self._hub.tell(address_of(address), contract)

    def background(
        self, work: Coroutine[Any, Any, _Result], *, name: str = ""
    ) -> asyncio.Task[_Result]:
        """Runs `work` beside the handlers; cancelled at the end of the actor, a failure is
        logged.

        Raises:
            Overloaded: the actor has too many of them.
        """
        if len(self._background) >= MAX_BACKGROUND:
            work.close()
            _refused_background.inc()
            raise Overloaded(f"{self._who} has {len(self._background)} background tasks already")
        task = self.loop.create_task(work, name=name or None)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    def serve(self, part: object) -> None:
        """Has `part`, whose methods are marked with `on`, answer too. For `started`.

        Raises:
            TypeError: one of its contracts is answered already.
        """
        self._serving.add(part)

    def watch(self, address: Address | str, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` once when the process at `address` is gone; the result takes the
        wish back."""
        return self._hub.watch(address_of(address), callback)

    def route(self, node: str, where: str | None) -> None:
        """Tells this process where another node is; see `Connections.route`."""
        self._hub.route(node, where)

    def kill_placed(self, address: Address) -> None:
        """Has the node of `address` kill that process, which was placed there for an actor of this
        node. If it can't be reached, it ends by itself: it has lost us as well."""
        border = self._hub.border
        port = border.routes.admin_port(address.node) if border is not None else 0
        admin = Address.admin(address.node, port or DEFAULT_PORT)
        with suppress(Overloaded):
            self._hub.tell(admin, KillPlaced(pid=address.pid))

    @staticmethod
    def actorSystemCapabilityCheck(
        capabilities: Mapping[str, Any], requirements: Mapping[str, Any]
    ) -> bool:
        """Thespian asks whether an actor of this class may run at a node."""
        return meets(capabilities, requirements)

    def exit_process(self, reason: str) -> None:
        """Ends this actor in an orderly way; safe to call twice."""
        if not self._leaving:
            self._leaving = True
            log.info("actor exits", actor=self._who, reason=reason)
            self._transport.deliver(self._transport.myAddress, ActorExitRequest())

    async def create(
        self,
        actor_class: type[Actor],
        *,
        timeout: float = 30.0,
        requires: Mapping[str, Capability] = {},
    ) -> Address:
        """Starts a child in a process of its own, and returns when that has connected. The child
        is made and started after that; if it can't be, `on_child_exited` tells. Contracts wait
        for it. Cancelling this kills the process. With `requires` it starts here if this node's
        capabilities meet that, else at a node of the convention whose do; that one's Admin is
        the parent of the process, and its end is noticed when its connection ends (`watch`).

        Raises:
            Forbidden: the class is not on the node's list.
            Unavailable: the process ended before it was up, or no node has what it requires.
            NoAnswer: it wasn't up within `timeout` seconds, and was killed.
        """
        if not self._transport.options.allows(class_name(actor_class)):
            raise Forbidden(f"{class_name(actor_class)} {REFUSED}")
        return await self._created.create(
            class_name(actor_class),
            lambda: self.createActor(actor_class, dict(requires) or None),
            requires,
            timeout,
        )

    # ---- what operators say

    @on(Inspect, ShowStats, SetLogLevel, Suspend, Resume, of=OPERATOR | PLACER)
    def _operated(self, msg: Contract, sender: Address) -> Contract:
        return self._operating.answer(msg, sender)

    def background_names(self) -> list[str]:
        """The names of all tasks beside the handlers."""
        return [task.get_name() for task in self._background]

    # ---- what Thespian calls

    def receiveMessage(self, msg: Any, sender: Any) -> None:
        if isinstance(msg, ChildActorExited):
            self._child_exited(msg)

    @property
    def _myRef(self) -> TetherManager:
        return self._manager

    @_myRef.setter
    def _myRef(self, manager: TetherManager) -> None:
        # Thespian assigns it between __init__ and the first message.
        self._manager = manager
        self._transport: Transport = manager.transport
        self._hub: Connections = self._transport.hub
        self.loop = self._transport.loop
        self.address = self._transport.address
        self.pid = os.getpid()
        self._who = f"{type(self).__name__} {self.address}"
        self._leaving = self._has_started = False
        self._background: set[asyncio.Task[Any]] = set()
        self._created = CreatedProcesses(self.loop, manager)
        self._serving = Dispatch(self._hub, handlers_of(self), self.max_handlers, self._who)
        self._operating = Introspection(self, self._hub, self._serving, self.max_handlers)
        self._transport.exit_gate = self._gate
        if self.ends_with_parent and self._transport.parent is not None:
            self._transport.end_with(self._transport.parent)
        self.loop.call_soon(lambda: self.background(self._start(), name="start"))
        self.loop.call_soon(self._measure)

    def child_came_up(self, instance: int, address: Address) -> None:
        """Thespian's manager tells that a child has connected."""
        if not self._created.came_up(instance, address):
            self.kill_placed(address)  # it was placed on another node after we gave up

    def _child_exited(self, message: Any) -> None:
        address = message.childAddress.addressDetails
        if self._created.exited(address):
            self.on_child_exited(address)

    def _measure(self) -> None:
        _handlers_used.set(self._serving.running)
        _background_used.set(len(self._background))
        for what, times in disk.drain(log).items():
            metrics.unwritten.labels(what).inc(times)
        self.loop.call_later(MEASURE_S, self._measure)

    # ---- begin and end

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(self.start_timeout_s):
                await self.started()
        except Exception as error:
            log.exception("actor could not start", actor=self._who)
            self._serving.refuse_all(Unavailable(f"{self._who} could not start: {error}"))
            self._transport.exit_gate = None
            self.exit_process("it could not start")
        else:
            self._has_started = True
            self._serving.begin()

    def _gate(self, then: Callable[[], None]) -> None:
        self._leaving = True
        ending = self.loop.create_task(self._end(then), name="end")
        self._ending = ending  # a loop holds its tasks weakly

    async def _end(self, then: Callable[[], None]) -> None:
        try:
            if self._has_started:
                await self.turn()
                async with asyncio.timeout(self.stop_timeout_s):
                    await self.stopping()
        except Exception:
            log.exception("actor could not stop in order", actor=self._who)
        try:
            async with asyncio.timeout(self.stop_timeout_s):
                await self._serving.stop()
                for task in list(self._background):
                    task.cancel(CancelCause.STOPPING)
                if self._background:
                    await asyncio.wait(self._background)
        except TimeoutError:
            log.warning("tasks outlived their actor", actor=self._who)
        then()

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            heard.error(
                "a background task failed",
                type(task.exception()).__name__,
                actor=self._who,
                task=task.get_name(),
                exc_info=task.exception(),
            )
