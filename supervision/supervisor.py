"""The supervisor: an actor that carries out what its `SupervisionTree` decides.

It tells the tree what happened (a child answered, a process ended, time passed) and performs
the actions that come back; it decides nothing itself. No handler waits for a child, so the
mailbox stays open whatever the children do.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any, ClassVar

import msgspec

from supervision.actions import Action, Emit, EndTree, Kill, Serve, Spawn, Start, Stop
from supervision.child import Supervised
from supervision.child_commands import ChildCommands
from supervision.child_processes import ChildProcesses
from supervision.contracts import ChildChanged, ChildKind, ExitNotice, ExitReason, TreeNode
from supervision.errors import TetherError, Unavailable, from_code
from supervision.event_log import narrate
from supervision.events import Event, TreeChanged
from supervision.external_cause import ExternalCause
from supervision.operator_commands import OperatorCommands
from supervision.runtime import Address, on
from supervision.runtime.spawning import SpawnedProcess
from supervision.security.audience import NODE
from supervision.spec import ChildSpec, Shutdown, SupervisorOptions
from supervision.telemetry import logs
from supervision.tree import SupervisionTree
from supervision.tree_driver import TreeDriver

log = logs.get(__name__)


class Supervisor(Supervised):
    """Starts, watches and restarts the children of its options."""

    Options: ClassVar[type[msgspec.Struct]] = SupervisorOptions
    stop_timeout_s: ClassVar[float] = 5.0

    kind: ClassVar[str] = ""  # what the tree shows instead of a strategy

    _processes: ChildProcesses | None = None
    _forsaken: bool = False  # its children, which stop by themselves

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

    def commands(self, driver: TreeDriver) -> ChildCommands:
        """The part that takes orders concerning children; kinds of supervisors differ in it too."""
        return ChildCommands(self, driver, self.keep_ready)

    async def start(self, options: Any) -> None:
        """Start all children. Raises what kept one from starting, after undoing the rest."""
        self._served: asyncio.Future[None] = self.loop.create_future()
        self._finished: asyncio.Future[EndTree] = self.loop.create_future()
        tree = self.plan(options)
        self.strategy = self.kind or str(tree.strategy)
        self._driver = driver = TreeDriver(self.loop, tree, self._carry_out)
        self._processes = processes = ChildProcesses(self, driver)
        self._commands = self.commands(driver)
        self.serve(self._commands)
        self.serve(OperatorCommands(self, driver, processes))
        driver.perform(tree.begin(driver.now()))
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
        turn, any_lives = self._child_turn, bool(self._processes)
        if turn is not None and any_lives and not self._child_told and await turn.node_ends():
            self._forsaken = True
            self._driver.forsake()
            turn.give_up()
            self._transport.abandon()

    async def stopping(self) -> None:
        if not self._forsaken:
            await super().stopping()

    # ---- what happened

    @on(ExitNotice, of=NODE)
    def _noticed(self, msg: ExitNotice, sender: Address) -> None:
        parent, _, id = msg.path.rpartition("/")
        if parent != self.path or self._processes is None:
            return
        if self._processes.speaks_for(id, msg.generation, sender):
            noticed = self._driver.tree.noticed(
                id,
                msg.generation,
                msg.reason,
                msg.error,
                self._driver.now(),
                excuse=ExternalCause.of(msg.code),
            )
            self._driver.perform(noticed)

    def on_child_exited(self, address: Address) -> None:
        """Thespian says that a child is gone."""
        if self._processes is not None:
            self._processes.exited(address)

    # ---- what to do about it

    def _carry_out(self, action: Action) -> None:
        assert self._processes is not None
        match action:
            case Spawn(spec, generation):
                self._processes.spawn(spec, generation)
            case Start(id, generation, needs):
                self._processes.take_turn(id, generation, dict(needs))
            case Stop(id, generation, deadline_s, reason):
                self._processes.stop(id, generation, deadline_s, reason)
            case Kill(id, generation):
                self._processes.kill(id, generation)
            case Emit(event):
                self.happened(event)
            case Serve():
                self._served.set_result(None)
                self.keep_ready()
            case EndTree():
                self._finish(action)

    def happened(self, event: Event) -> None:
        """Log it, and tell those that wait for it."""
        narrate(event)
        self._commands.heard(event)
        if isinstance(event, TreeChanged):
            self.tell_root(event.node)

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
            for spec in self._driver.tree.children.specs()
            if spec.kind is ChildKind.WORKER
        }
        if modules:
            options = self._transport.options
            SpawnedProcess.keep_spares(self.loop, options, {"supervision", *modules})

    def _finish(self, finish: EndTree) -> None:
        self._driver.rest()
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
        self._driver.perform(self._driver.tree.stop(self._driver.now()))
        await asyncio.shield(self._finished)
