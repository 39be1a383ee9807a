"""A supervisor whose children come and go while it runs."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import msgspec

from supervision.child_commands import ChildCommands
from supervision.contracts import AddChild, ChildReady
from supervision.errors import BadRequest, Overloaded
from supervision.events import Event
from supervision.runtime import Address
from supervision.spec import ChildSpec, DynamicOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.telemetry import bounds
from supervision.tree import SupervisionTree
from supervision.tree_driver import TreeDriver


class DynamicSupervisor(Supervisor):
    """Starts and stops its children together; at most `max_children` of them."""

    Options: ClassVar[type[msgspec.Struct]] = DynamicOptions
    kind: ClassVar[str] = "dynamic"

    def plan(self, options: Any) -> SupervisionTree:
        self._used = bounds.used.labels(f"children of {self.path}")
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

    def commands(self, driver: TreeDriver) -> ChildCommands:
        return DynamicCommands(self, driver, self.keep_ready)

    def happened(self, event: Event) -> None:
        super().happened(event)
        self._used.set(self._driver.tree.children.count()["specs"])


class DynamicCommands(ChildCommands):
    """Takes children without order, as many as there is room for, and forgets them."""

    forgets = True

    def check(self, spec: ChildSpec) -> None:
        if spec.needs or spec.significant:
            path = self._actor.path
            raise BadRequest(f"{path} can't start {spec.id}: its children have no order")

    async def add(self, msg: AddChild, sender: Address) -> ChildReady:
        try:
            return await super().add(msg, sender)
        except Overloaded:
            bounds.refused.labels(f"children of {self._actor.path}").inc()
            raise
