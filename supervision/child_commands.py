"""Commands and questions of others about the children of a supervisor: OTP's
start_child, terminate_child, restart_child, delete_child, which_children and count_children.

OTP's errors are a `Conflict` whose `param` is OTP's word: already_present, already_started,
running, restarting or not_found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from supervision.actions import Action
from supervision.child import Supervised
from supervision.child_state import join
from supervision.contracts import (
    AddChild,
    ChildCounts,
    ChildDeleted,
    ChildReady,
    ChildrenShown,
    ChildStatus,
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
from supervision.security.audience import OPERATOR
from supervision.spec import ChildSpec
from supervision.strategy import AutoShutdown, Strategy
from supervision.tree_driver import TreeDriver
from supervision.unreadable import UNREADABLE


class ChildCommands:
    """The part of a supervisor, `actor`, that answers these. What was ordered goes on when the
    asker has left. `started` is called when a child runs that somebody asked for."""

    forgets: ClassVar[bool] = False  # what it terminates

    def __init__(
        self, actor: Supervised, driver: TreeDriver, started: Callable[[], object]
    ) -> None:
        self._actor = actor
        self._driver = driver
        self._tree = driver.tree
        self._started = started
        self._errors: dict[str, str] = {}  # of children that are being started, by id

    def check(self, spec: ChildSpec) -> None:
        """
        Raises:
            BadRequest: this supervisor can't have such a child.
        """
        ids = {known.id for known in self._tree.children.specs()}
        missing = [need for need in spec.needs if need not in ids]
        if missing or (spec.needs and self._tree.strategy is Strategy.ONE_FOR_ONE):
            why = f"there is no {missing[0]}" if missing else "needs go stale under one_for_one"
            raise BadRequest(f"{self._actor.path} can't start {spec.id} with its needs: {why}")
        if spec.significant and self._tree.auto_shutdown is AutoShutdown.NEVER:
            raise BadRequest(
                f"{spec.id} is significant, but {self._actor.path}'s auto_shutdown is never"
            )

    @on(AddChild, of=OPERATOR)
    async def add(self, msg: AddChild, sender: Address) -> ChildReady:
        """Start one more child; answered when it serves."""
        try:
            spec = msgspec.msgpack.decode(msg.spec, type=ChildSpec)
        except UNREADABLE as error:
            raise BadRequest(f"{self._actor.path} can't start this child: {error}") from error
        self.check(spec)
        return await self._start(spec.id, self._tree.add(spec, self._driver.now()))

    @on(RestartChild, of=OPERATOR)
    async def restart(self, msg: RestartChild, sender: Address) -> ChildReady:
        """Start a child that is down."""
        return await self._start(msg.id, self._tree.restart(msg.id, self._driver.now()))

    @on(TerminateChild, of=OPERATOR)
    async def terminate(self, msg: TerminateChild, sender: Address) -> ChildStopped:
        """Stop a child for good; answered when its process is gone."""
        self._driver.perform(self._tree.terminate(msg.id, self._driver.now(), forget=self.forgets))
        while (node := self._tree.children.node(msg.id, self._driver.now())) is not None:
            if node.state is ChildStatus.STOPPED and not self.forgets:
                break
            await self._driver.changed()
        return ChildStopped()

    @on(DeleteChild, of=OPERATOR)
    def delete(self, msg: DeleteChild, sender: Address) -> ChildDeleted:
        """Forget a child that is down."""
        self._driver.perform(self._tree.delete(msg.id, self._driver.now()))
        return ChildDeleted()

    @on(ShowChildren, of=OPERATOR)
    def which(self, msg: ShowChildren, sender: Address) -> ChildrenShown:
        """All children, in start order."""
        return ChildrenShown(nodes=self._tree.children.which(self._driver.now()))

    @on(CountChildren, of=OPERATOR)
    def count(self, msg: CountChildren, sender: Address) -> ChildCounts:
        """How many there are, by kind."""
        return ChildCounts(**self._tree.children.count())

    def heard(self, event: Event) -> None:
        """Something has happened to the tree."""
        id = event.path.rpartition("/")[2]
        if isinstance(event, ChildExited) and id in self._errors:
            self._errors[id] = event.error or str(event.reason)

    async def _start(self, id: str, actions: Sequence[Action]) -> ChildReady:
        self._errors[id] = "it was taken back"
        try:
            self._driver.perform(actions)
            while node := self._tree.children.node(id, self._driver.now()):
                if node.state is ChildStatus.RUNNING:
                    self._started()
                    return ChildReady(pid=node.pid, address=node.address, strategy=node.strategy)
                if node.state is ChildStatus.STOPPED:
                    break  # what was asked for and fails once isn't tried again
                await self._driver.changed()
            raise Unavailable(f"{join(self._actor.path, id)} did not start: {self._errors[id]}")
        finally:
            self._errors.pop(id, None)
