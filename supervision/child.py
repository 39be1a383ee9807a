"""An actor that a supervisor starts, stops and restarts."""

from __future__ import annotations

import asyncio
import math
from typing import Any, ClassVar, Final

import msgspec

from supervision.contracts import (
    ChildReady,
    ChildStopped,
    ExitNotice,
    ExitReason,
    Ping,
    Pong,
    StartChild,
    StopChild,
)
from supervision.errors import Conflict, Draining, Forbidden, Internal, TetherError, Unavailable
from supervision.orphan_order import OrphanOrder
from supervision.runtime import Actor, Address, on
from supervision.security.audience import PLACER
from supervision.spec import ChildSpec
from supervision.telemetry import logs, title
from supervision.tree_position import TreePosition
from supervision.tree_view import TreeView

ORPHAN_STOP_S: Final = 2.0  # for stop() when nobody said how long it may take

log = logs.get(__name__)


class NoOptions(msgspec.Struct, frozen=True):
    """For children that need none."""


class Supervised(Actor):
    """Override `Options`, `start`, `stop`, and `spec` if its defaults don't fit.

    A contract may arrive as soon as `start` has returned, for the address is known then. When
    the supervisor's process is gone this one ends too, after `stop`; when the node is, after those
    that started after it.
    """

    Options: ClassVar[type[msgspec.Struct]] = NoOptions

    path: str = ""
    generation: int = 0
    parent: str = ""
    root: str = ""
    needs: dict[str, Address]
    strategy: str = ""  # of a supervisor, for the tree
    child_numbers: tuple[int, ...] = ()  # of its place in the start order of the node

    _child_ready: ChildReady | None = None
    _child_starting: asyncio.Task[None] | None = None
    _child_stopping: asyncio.Task[None] | None = None
    _child_view: TreeView | None = None
    _child_turn: OrphanOrder | None = None
    _child_leaving: bool = False  # of its own accord

    # ---- to override

    async def start(self, options: Any) -> None:
        """Become ready; `options` are of the class `Options`. Whatever is raised is told to the
        supervisor and ends the process; `stop` isn't called then, so clean up first."""

    async def stop(self, deadline_s: float) -> None:
        """Finish what runs, let go of everything, within `deadline_s` seconds. Called once."""

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        """This class as a child: `changes` are fields of ChildSpec.

        Raises:
            ValueError: see ChildSpec.
        """
        return ChildSpec(
            id=id or cls.__name__.lower(),
            start=f"{cls.__module__}:{cls.__qualname__}",
            args=msgspec.msgpack.encode(options) if options is not None else b"",
            **changes,
        )

    # ---- to use

    @property
    def tree(self) -> TreeView:
        """The node's tree, live; subscribed to when it is first asked for."""
        if self._child_view is None:
            self._child_view = TreeView(self, self.root or str(self.address))
        return self._child_view

    async def fail(self, error: BaseException | str) -> None:
        """Tell the supervisor that this actor can't go on, and end."""
        said = error if isinstance(error, str) else sentence(error)
        code = error.code if isinstance(error, TetherError) else ""
        self._child_leave(ExitReason.FAILED, said, code)

    async def finish(self) -> None:
        """Tell the supervisor that there is nothing more to do, and end."""
        self._child_leave(ExitReason.NORMAL, "")

    # ---- what the supervisor says

    @on(StartChild, of=PLACER)
    async def _start_child(self, msg: StartChild, sender: Address) -> ChildReady:
        if self._child_starting is None:
            _speaks_for_itself(msg, sender)
            self.path, self.generation = msg.path, msg.generation
            self.child_numbers = msg.place or ()
            self.parent, self.root = msg.parent, msg.root
            self._child_follow(msg.parent)
            logs.configure(node=self.address.node, path=msg.path or "root")
            title.show(self.address.node, msg.path or "root")
            self._child_starting = self.loop.create_task(self._child_begin(msg), name="start")
        elif msg.generation != self.generation or msg.path != self.path:
            raise Conflict(f"{self.address} is {self.path} in generation {self.generation} already")
        try:
            await asyncio.shield(self._child_starting)
        except asyncio.CancelledError:
            if self._child_starting.cancelled():
                raise Draining(f"{self.path} was told to stop while it started") from None
            raise
        except Exception as error:
            self._child_leaving = True
            # after this answer has left
            self.loop.call_soon(self.exit_process, "it could not start")
            raise error if isinstance(error, TetherError) else Internal(sentence(error)) from error
        if self._child_ready is None:
            self._child_ready = ChildReady(
                pid=self.pid, address=str(self.address), strategy=self.strategy
            )
        return self._child_ready

    @on(StopChild, of=PLACER)
    async def _stop_child(self, msg: StopChild, sender: Address) -> ChildStopped:
        await self._child_wind_up(msg.deadline_s)
        self.loop.call_soon(self.exit_process, str(msg.reason))
        return ChildStopped()

    @on(Ping, of=PLACER)
    def _ping(self, msg: Ping, sender: Address) -> Pong:
        return Pong()

    async def turn(self) -> None:
        """The actor ends, told to or not. If nobody is there to tell, those it serves end first."""
        turn = self._child_turn
        if turn is not None and not self._child_told and await turn.node_ends():
            await turn.comes(lambda: self._child_told)

    async def stopping(self) -> None:
        """The actor ends, and it is its turn."""
        await self._child_wind_up(min(ORPHAN_STOP_S, self.stop_timeout_s * 0.9))

    # ---- how

    @property
    def _child_told(self) -> bool:
        """Did somebody, or it itself, say that it ends?"""
        return self._child_leaving or self._child_stopping is not None

    def _child_takes_place(self, msg: StartChild) -> None:
        """The root's is the first, and who was placed here by another node has none."""
        numbers = msg.place if msg.path else ()
        if numbers is not None:
            root = Address.parse(msg.root) if msg.root else self.address
            self._child_turn = OrphanOrder(self._transport, TreePosition(numbers), root)

    async def _child_begin(self, msg: StartChild) -> None:
        try:
            self._child_takes_place(msg)
            for need, text in msg.needs.items():
                if not text:
                    raise Unavailable(f"{msg.path} needs {need}, which doesn't run")
            self.needs = {need: Address.parse(text) for need, text in msg.needs.items()}
            options = msgspec.msgpack.decode(msg.args, type=self.Options) if msg.args else None
            await self.start(options if options is not None else self.Options())
        except TetherError as error:
            log.error("could not start", error=error.message)
            raise
        except Exception:
            log.exception("could not start")
            raise

    def _child_follow(self, parent: str) -> None:
        """A supervisor of another node isn't the parent of this process; it ends with it anyway."""
        if parent and (above := Address.parse(parent)).node != self.address.node:
            self._transport.end_with(above)

    async def _child_wind_up(self, deadline_s: float) -> None:
        """Call `stop` once, whoever asks how often."""
        if self._child_stopping is None:
            self._child_stopping = self.loop.create_task(self._child_stop(deadline_s), name="stop")
        await asyncio.shield(self._child_stopping)

    async def _child_stop(self, deadline_s: float) -> None:
        starting = self._child_starting
        if starting is None:
            return
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting], timeout=None if math.isinf(deadline_s) else deadline_s)
            return
        if starting.cancelled() or starting.exception() is not None:
            return
        try:
            async with asyncio.timeout(None if math.isinf(deadline_s) else deadline_s):
                await self.stop(deadline_s)
        except TimeoutError:
            log.warning("did not stop in time", deadline_s=deadline_s)
        except Exception:
            log.exception("could not stop in order")

    def _child_leave(self, reason: ExitReason, error: str, code: str = "") -> None:
        if self._child_stopping is not None:
            return  # it ends as it was told to, and what ends with it is no failure
        self._child_leaving = True
        log.info("leaves", reason=str(reason), error=error)
        if self.parent:
            self.tell(
                self.parent,
                ExitNotice(
                    path=self.path,
                    generation=self.generation,
                    reason=reason,
                    error=error,
                    code=code,
                ),
            )
        self.exit_process(f"{reason}: {error}" if error else str(reason))


def _speaks_for_itself(msg: StartChild, sender: Address) -> None:
    """
    Raises:
        Forbidden: a parent or a root is named that isn't of the sender's node: this process would
            end with it, and believe it.
    """
    for text in (msg.parent, msg.root):
        if text and Address.parse(text).node != sender.node:
            raise Forbidden(
                f"node {sender.node} may not speak for {text}; whoever starts a child names "
                "processes of its own node"
            )


def sentence(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, TetherError):
        return error.message
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
