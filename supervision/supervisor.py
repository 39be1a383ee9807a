"""The supervisor: an actor that carries out what its `SupervisionTree` decides.

It tells the tree what happened (a child answered, a process ended, time passed) and performs
the actions that come back; it decides nothing itself. No handler waits for a child, so the
mailbox stays open whatever the children do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from supervision.actions import Action, Emit, EndTree, Kill, Serve, Spawn, Start, Stop
from supervision.child import Supervised, sentence
from supervision.child_commands import ChildCommands
from supervision.child_state import join
from supervision.contracts import (
    ChildChanged,
    ChildReady,
    ExitNotice,
    ExitReason,
    StartChild,
    StopChild,
    TreeNode,
)
from supervision.errors import TetherError, Unavailable, from_code
from supervision.event_log import narrate
from supervision.events import Event, TreeChanged
from supervision.external_cause import ExternalCause
from supervision.lineage import predecessors_gone
from supervision.liveness import attend
from supervision.operator_commands import OperatorCommands
from supervision.process import ChildProcess, PlacedProcess
from supervision.runtime import Actor, Address, on
from supervision.runtime.spawning import SpawnedProcess
from supervision.spec import ChildKind, ChildSpec, Shutdown, SupervisorOptions
from supervision.telemetry import disk, logs
from supervision.tree import SupervisionTree

_LAST_WORDS_S: Final = 0.05  # after a process has ended, for what it said to be read
_LINGER_S: Final = 2.0  # between a child's connection and its process
_MARGIN_S: Final = 2.0  # beyond a deadline that the tree keeps
_A_YEAR_S: Final = 365 * 86400.0
_TICK_S: Final = 0.001

log = logs.get(__name__)


@dataclass(slots=True, eq=False)
class _Child:
    """One generation of one child, from its spawn to its exit."""

    spec: ChildSpec
    generation: int
    turn: asyncio.Future[dict[str, str]]  # set with its needs when it is to start
    task: asyncio.Task[None] | None = None
    process: ChildProcess | PlacedProcess | None = None
    address: Address | None = None
    attended: asyncio.Task[None] | None = None
    dead: bool = False  # its process has ended
    silent: bool = False  # its connection has ended, so all it said was heard
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Supervisor(ChildCommands, OperatorCommands, Supervised):
    """Starts, watches and restarts the children of its options."""

    Options: ClassVar[type[msgspec.Struct]] = SupervisorOptions
    stop_timeout_s: ClassVar[float] = 5.0

    kind: ClassVar[str] = ""  # what the tree shows instead of a strategy

    _tree: SupervisionTree
    _timer: asyncio.TimerHandle | None = None
    _forsaken: bool = False  # its children, which stop by themselves
    _told: float = 0.0  # the time that the tree was last told

    # ---- a supervisor as a child

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        timeout_s = getattr(options, "start_timeout_s", None)
        if timeout_s is not None:
            changes.setdefault("start_timeout_s", timeout_s)
        return super().spec(
            options, id=id, kind=ChildKind.SUPERVISOR, shutdown=Shutdown.INFINITY, **changes
        )

    def plan(self, options: Any) -> SupervisionTree:
        """The tree of decisions for these options; what kinds of supervisors differ in."""
        return SupervisionTree(
            self.path,
            options.children,
            strategy=options.strategy,
            intensity=options.intensity,
            period_s=options.period_s,
            draw=random.random,
            auto_shutdown=options.auto_shutdown,
        )

    async def start(self, options: Any) -> None:
        """Start all children. Raises what kept one from starting, after undoing the rest."""
        self._verb_errors = {}
        self._nursery: dict[tuple[str, int], _Child] = {}
        self._by_address: dict[Address, _Child] = {}
        self._served: asyncio.Future[None] = self.loop.create_future()
        self._finished: asyncio.Future[EndTree] = self.loop.create_future()
        self._tree = self.plan(options)
        self.strategy = self.kind or str(self._tree.strategy)
        self._perform(self._tree.begin(self._now()))
        try:
            await asyncio.shield(self._served)
        except asyncio.CancelledError:
            await self._stop_all()
            raise

    async def stop(self, deadline_s: float) -> None:
        """Stop all children in reverse order."""
        await self._stop_all()

    async def turn(self) -> None:
        """When the node ends nobody waits for a supervisor: its children know their turns."""
        turn, any_lives = self._child_turn, bool(getattr(self, "_nursery", None))
        if turn is not None and any_lives and not self._child_told and await turn.node_ends():
            self._forsaken = True
            turn.give_up()
            self._transport.abandon()

    async def stopping(self) -> None:
        if not self._forsaken:
            await super().stopping()

    # ---- what happened

    @on(ExitNotice)
    def _noticed(self, msg: ExitNotice, sender: Address) -> None:
        parent, _, id = msg.path.rpartition("/")
        if parent == self.path:
            self._perform(
                self._tree.noticed(
                    id,
                    msg.generation,
                    msg.reason,
                    msg.error,
                    self._now(),
                    excuse=ExternalCause.of(msg.code),
                )
            )

    def on_child_exited(self, address: Address) -> None:
        """Thespian says that a child is gone."""
        child = self._by_address.get(address)
        if child is not None:
            self._dead(child)

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._tree.tick(self._now()))

    def _now(self) -> float:
        self._told = self.loop.time()
        return self._told

    # ---- what to do about it

    def _perform(self, actions: Sequence[Action]) -> None:
        told = self._told
        if self._forsaken:
            return
        for action in actions:
            match action:
                case Spawn(spec, generation):
                    self._spawn(spec, generation)
                case Start(id, generation, needs):
                    child = self._nursery.get((id, generation))
                    if child is not None and not child.turn.done():
                        child.turn.set_result(dict(needs))
                case Stop(id, generation, deadline_s, reason):
                    child = self._nursery.get((id, generation))
                    if child is not None:
                        self.background(self._ask_to_stop(child, deadline_s, reason), name="stop")
                case Kill(id, generation):
                    self._kill(self._nursery.get((id, generation)))
                case Emit(event):
                    self._happened(event)
                case Serve():
                    self._served.set_result(None)
                    self.keep_ready()
                case EndTree():
                    self._finish(action)
        self._arm(told)

    def _arm(self, told: float) -> None:
        """Set the timer. `told` is the time that the tree decided by: what fell due since then
        has still to be ticked, and the clock does go on in between."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._tree.wakeup(told)
        if due is not None:
            self._timer = self.loop.call_later(max(_TICK_S, due - self.loop.time()), self._tick)

    def _happened(self, event: Event) -> None:
        narrate(event)
        self.verbs_heard(event)
        if isinstance(event, TreeChanged):
            self.tell_root(event.node)
            self.operated_news()

    def tell_root(self, node: TreeNode) -> None:
        """One line of the tree has changed."""
        if self.root:
            with suppress(TetherError):  # the root is too slow or gone: it ends us soon
                self.tell(self.root, ChildChanged(node=node))

    def keep_ready(self) -> None:
        """Keep spares of which a child can be made, if there are children that work: those of a
        supervisor take longer than its own process."""
        modules = {
            spec.start_module
            for spec in self._tree.children.specs()
            if spec.kind is ChildKind.WORKER
        }
        if modules:
            options = self._transport.options
            SpawnedProcess.keep_spares(self.loop, options, {"supervision", *modules})

    def _finish(self, finish: EndTree) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._finished.done():
            self._finished.set_result(finish)
        why = " <- ".join(finish.causes)
        if not self._served.done():
            why = why or f"{self.path} was told to stop"
            self._served.set_exception(from_code(finish.excuse or Unavailable.code, why))
            self._served.exception()  # whoever waits gets it; nobody waits after a cancel
        elif self._child_stopping is None:
            reason = finish.reason
            log.log(40 if reason is ExitReason.FAILED else 20, "ends", reason=str(reason), why=why)
            self._child_leave(reason, why)

    async def _stop_all(self) -> None:
        self._perform(self._tree.stop(self._now()))
        await asyncio.shield(self._finished)

    # ---- one child

    def _spawn(self, spec: ChildSpec, generation: int) -> None:
        child = _Child(spec, generation, self.loop.create_future())
        self._nursery[spec.id, generation] = child
        child.task = self.background(self._raise(child), name=f"start {spec.id}")

    async def _raise(self, child: _Child) -> None:
        """Bring a child up, from no process to ready."""
        spec, generation = child.spec, child.generation
        try:
            address = await self.create(
                actor_named(spec.start), timeout=spec.start_timeout_s, requires=spec.requires
            )
            child.process = self._process(child, address)
        except asyncio.CancelledError:
            self._gone(child, "it was killed before it was up")
            raise
        except ProcessLookupError:
            self._gone(child, "its process ended as soon as it was up")
            return
        except Exception as error:
            self._gone(child, sentence(error))
            return
        child.address = address
        self._by_address[address] = child
        child_silent = self.watch(address, lambda: self._silent(child))
        self._perform(
            self._tree.spawned(spec.id, generation, address.pid, str(address), self._now())
        )
        try:
            needs = await child.turn
            if spec.alone and address.node == self.address.node:
                await predecessors_gone(self, join(self.path, spec.id), address.pid)
            ready = await self.ask(
                address,
                StartChild(
                    path=join(self.path, spec.id),
                    generation=generation,
                    parent=str(self.address),
                    root=self.root or str(self.address),
                    args=spec.args,
                    needs=needs,
                    place=self._place_of(child),
                ),
                timeout=spec.start_timeout_s + _MARGIN_S,
            )
        except TetherError as error:
            if not child.silent:  # else its exit says more
                self._perform(
                    self._tree.start_failed(
                        spec.id,
                        generation,
                        sentence(error),
                        self._now(),
                        excuse=ExternalCause.in_error(error),
                    )
                )
        except asyncio.CancelledError:
            child_silent()
            raise
        else:
            assert isinstance(ready, ChildReady)
            child.attended = self.background(
                attend(self, spec, address, lambda why: self._doomed(child, why)),
                name=f"attend {spec.id}",
            )
            self._perform(
                self._tree.ready(
                    spec.id,
                    generation,
                    ready.pid,
                    ready.address,
                    self._now(),
                    strategy=ready.strategy,
                )
            )

    def _place_of(self, child: _Child) -> tuple[int, ...] | None:
        here = child.address is not None and child.address.node == self.address.node
        return (*self._child_numbers, self._tree.number(child.spec.id)) if here else None

    def _process(self, child: _Child, address: Address) -> ChildProcess | PlacedProcess:
        """The process of a child, wherever it is."""
        if address.node == self.address.node:
            return ChildProcess(self.loop, address.pid, lambda: self._dead(child))
        # There is no process to look at: its connection's end, or silence, is its end.
        return PlacedProcess(address, self.kill_placed, lambda: self._dead(child))

    async def _ask_to_stop(self, child: _Child, deadline_s: float, reason: ExitReason) -> None:
        if child.address is None:
            self._kill(child)  # it was never told to start
            return
        timeout = min(deadline_s, _A_YEAR_S) + _MARGIN_S
        with suppress(TetherError):  # its exit is the answer; whoever stays is killed
            await self.ask(
                child.address, StopChild(deadline_s=deadline_s, reason=reason), timeout=timeout
            )
            # It has let go of everything; what is left is the interpreter's own tidying.
            child.timers.append(self.loop.call_later(_LAST_WORDS_S, self._kill, child))

    def _doomed(self, child: _Child, why: str) -> None:
        spec = child.spec
        self._perform(self._tree.doomed(spec.id, child.generation, why, self._now()))

    def _kill(self, child: _Child | None) -> None:
        if child is None:
            return
        if child.process is not None:
            child.process.kill()
        elif child.task is not None:
            child.task.cancel()  # which kills what was created

    def _dead(self, child: _Child) -> None:
        """Its process has ended. What it said last may still lie in the socket."""
        child.dead = True
        if child.silent:
            self._gone(child, "")
        else:
            child.timers.append(self.loop.call_later(_LAST_WORDS_S, self._gone, child, ""))

    def _silent(self, child: _Child) -> None:
        """Its connection has ended; its process should too."""
        child.silent = True
        if isinstance(child.process, PlacedProcess):
            child.process.kill()  # we may have lost it, and it not us
        if child.dead:
            self._gone(child, "")
        else:
            child.timers.append(self.loop.call_later(_LINGER_S, self._kill, child))

    def _gone(self, child: _Child, error: str) -> None:
        """Nothing is left of it. Safe to call twice."""
        if self._nursery.pop((child.spec.id, child.generation), None) is None:
            return
        for timer in child.timers:
            timer.cancel()
        if child.attended is not None:
            child.attended.cancel()
        if child.process is not None:
            child.process.close()
        if child.address is not None:
            self._by_address.pop(child.address, None)
        if child.task is not None and child.task is not asyncio.current_task():
            child.task.cancel()
        excuse = None
        if child.address is None and disk.shortage(Path(self._hub.run_dir), 1):
            excuse = ExternalCause.DISK_FULL  # it needs a socket, and can't tell without one
        self._perform(
            self._tree.exited(child.spec.id, child.generation, self._now(), error, excuse=excuse)
        )


def actor_named(start: str) -> type[Actor]:
    """A stand-in for the class `module:Class` that carries its name and nothing else, so that a
    supervisor needn't import what its children run (Thespian reads both names, and the module
    of the stand-in must be imported)."""
    module, _, name = start.partition(":")
    top, _, rest = module.partition(".")
    __import__(top)
    check = staticmethod(Actor.actorSystemCapabilityCheck)
    members = {"__module__": top, "actorSystemCapabilityCheck": check}
    return type(f"{rest}.{name}" if rest else name, (), members)
