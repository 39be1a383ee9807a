"""What others may have a supervisor do with its children, and what they may ask about them: OTP's
start_child, terminate_child, restart_child, delete_child, which_children and count_children.

OTP's errors are a `Conflict` whose `param` is OTP's word: already_present, already_started,
running, restarting or not_found. Other nodes are refused (`Forbidden`), but for the questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from supervision.actions import Action
from supervision.child_state import join
from supervision.contracts import (
    AddChild,
    ChildCounts,
    ChildDeleted,
    ChildReady,
    ChildrenShown,
    ChildStopped,
    CountChildren,
    DeleteChild,
    RestartChild,
    ShowChildren,
    TerminateChild,
)
from supervision.errors import BadRequest, Unavailable
from supervision.events import ChildExited, Event
from supervision.runtime import Address, on
from supervision.spec import ChildSpec
from supervision.strategy import AutoShutdown, Strategy

if TYPE_CHECKING:
    from supervision.runtime.introspection import Introspection
    from supervision.tree import SupervisionTree


class ChildCommands:
    """The part of a supervisor that answers these. What was ordered goes on when the asker has
    left."""

    path: str
    forgets: bool = False  # what it terminates
    _tree: SupervisionTree
    _operating: Introspection
    _verb_news: asyncio.Event | None = None
    _verb_errors: dict[str, str]  # of children that are being started for somebody, by id

    if TYPE_CHECKING:  # what a Supervisor adds

        def _now(self) -> float: ...
        def _perform(self, actions: Sequence[Action]) -> None: ...
        def keep_ready(self) -> None: ...

    def check(self, spec: ChildSpec) -> None:
        """
        Raises:
            BadRequest: this supervisor can't have such a child.
        """
        ids = {known.id for known in self._tree.children.specs()}
        missing = [need for need in spec.needs if need not in ids]
        if missing or (spec.needs and self._tree.strategy is Strategy.ONE_FOR_ONE):
            why = f"there is no {missing[0]}" if missing else "needs go stale under one_for_one"
            raise BadRequest(f"{self.path} can't start {spec.id} with its needs: {why}")
        if spec.significant and self._tree.auto_shutdown is AutoShutdown.NEVER:
            raise BadRequest(f"{spec.id} is significant, but {self.path}'s auto_shutdown is never")

    @on(AddChild)
    async def _verb_add(self, msg: AddChild, sender: Address) -> ChildReady:
        self._operating.allow(sender)
        try:
            spec = msgspec.msgpack.decode(msg.spec, type=ChildSpec)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"{self.path} can't start this child: {error}") from error
        self.check(spec)
        return await self._verb_start(spec.id, self._tree.add(spec, self._now()))

    @on(RestartChild)
    async def _verb_restart(self, msg: RestartChild, sender: Address) -> ChildReady:
        self._operating.allow(sender)
        return await self._verb_start(msg.id, self._tree.restart(msg.id, self._now()))

    @on(TerminateChild)
    async def _verb_terminate(self, msg: TerminateChild, sender: Address) -> ChildStopped:
        self._operating.allow(sender)
        self._perform(self._tree.terminate(msg.id, self._now(), forget=self.forgets))
        while (node := self._tree.children.node(msg.id, self._now())) is not None:
            if node.state == "stopped" and not self.forgets:
                break
            await self._verb_change()
        return ChildStopped()

    @on(DeleteChild)
    def _verb_delete(self, msg: DeleteChild, sender: Address) -> ChildDeleted:
        self._operating.allow(sender)
        self._perform(self._tree.delete(msg.id, self._now()))
        return ChildDeleted()

    @on(ShowChildren)
    def _verb_which(self, msg: ShowChildren, sender: Address) -> ChildrenShown:
        return ChildrenShown(nodes=self._tree.children.which(self._now()))

    @on(CountChildren)
    def _verb_count(self, msg: CountChildren, sender: Address) -> ChildCounts:
        return ChildCounts(**self._tree.children.count())

    def verbs_heard(self, event: Event) -> None:
        """Something has happened to the tree."""
        id = event.path.rpartition("/")[2]
        if isinstance(event, ChildExited) and id in self._verb_errors:
            self._verb_errors[id] = event.error or str(event.reason)
        if self._verb_news is not None:
            self._verb_news.set()
            self._verb_news = None

    async def _verb_start(self, id: str, actions: Sequence[Action]) -> ChildReady:
        self._verb_errors[id] = "it was taken back"
        try:
            self._perform(actions)
            while node := self._tree.children.node(id, self._now()):
                if node.state == "running":
                    self.keep_ready()
                    return ChildReady(pid=node.pid, address=node.address, strategy=node.strategy)
                if node.state == "stopped":
                    break  # what was asked for and fails once isn't tried again
                await self._verb_change()
            raise Unavailable(f"{join(self.path, id)} did not start: {self._verb_errors[id]}")
        finally:
            self._verb_errors.pop(id, None)

    async def _verb_change(self) -> None:
        if self._verb_news is None:
            self._verb_news = asyncio.Event()
        await self._verb_news.wait()
