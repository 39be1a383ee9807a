"""A supervisor whose children come and go while it runs."""

from __future__ import annotations

import asyncio
import random
from typing import Any, ClassVar

import msgspec

from actors.runtime import Address, on
from supervision.events import ChildExited, Event
from supervision.member import join
from supervision.spec import ChildSpec, DynamicOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.tree import SupervisionTree
from tether.contracts import AddChild, ChildReady, ChildStopped, TerminateChild
from tether.errors import BadRequest, Overloaded, Unavailable
from tether.telemetry import metrics


class DynamicSupervisor(Supervisor):
    """Starts and stops its children together; at most `max_children` of them."""

    Options: ClassVar[type[msgspec.Struct]] = DynamicOptions
    kind: ClassVar[str] = "dynamic"

    def plan(self, options: Any) -> SupervisionTree:
        self._news = asyncio.Event()
        self._errors: dict[str, str] = {}  # of children that are being added, by id
        bound = f"children of {self.path}"
        self._used = metrics.bound_used.labels(bound)
        self._refused = metrics.bound_refused.labels(bound)
        return SupervisionTree(
            self.path,
            options.children,
            strategy=Strategy.ONE_FOR_ONE,
            intensity=options.intensity,
            period_s=options.period_s,
            draw=random.random,
            together=True,
            eager=True,
            max_children=options.max_children,
        )

    @on(AddChild)
    async def _add(self, msg: AddChild, sender: Address) -> ChildReady:
        try:
            spec = msgspec.msgpack.decode(msg.spec, type=ChildSpec)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"{self.path} can't start this child: {error}") from error
        if spec.needs or spec.significant:
            raise BadRequest(f"{self.path} can't start {spec.id}: its children have no order")
        try:
            actions = self._tree.add(spec, self._now())
        except Overloaded:
            self._refused.inc()
            raise
        self._errors[spec.id] = "it was taken back"
        try:
            self._perform(actions)
            while node := self._tree.node(spec.id, self._now()):
                if node.state == "running":
                    return ChildReady(pid=node.pid, address=node.address)
                await self._news.wait()
            raise Unavailable(f"{join(self.path, spec.id)} did not start: {self._errors[spec.id]}")
        finally:
            self._errors.pop(spec.id, None)

    @on(TerminateChild)
    async def _terminate(self, msg: TerminateChild, sender: Address) -> ChildStopped:
        self._perform(self._tree.terminate(msg.id, self._now(), forget=True))
        while self._tree.node(msg.id, self._now()) is not None:
            await self._news.wait()
        return ChildStopped()

    def _happened(self, event: Event) -> None:
        super()._happened(event)
        id = event.path.rpartition("/")[2]
        if isinstance(event, ChildExited) and id in self._errors:
            self._errors[id] = event.error or str(event.reason)
        self._used.set(self._tree.count()["specs"])
        news, self._news = self._news, asyncio.Event()
        news.set()
