"""A supervisor whose children come and go while it runs."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import msgspec

from supervision.contracts import AddChild, ChildReady
from supervision.errors import BadRequest, Overloaded
from supervision.events import Event
from supervision.runtime import Address
from supervision.spec import ChildSpec, DynamicOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.telemetry import bounds
from supervision.tree import SupervisionTree


class DynamicSupervisor(Supervisor):
    """Starts and stops its children together; at most `max_children` of them."""

    Options: ClassVar[type[msgspec.Struct]] = DynamicOptions
    kind: ClassVar[str] = "dynamic"
    forgets = True

    def plan(self, options: Any) -> SupervisionTree:
        bound = f"children of {self.path}"
        self._used = bounds.used.labels(bound)
        self._refused = bounds.refused.labels(bound)
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

    def check(self, spec: ChildSpec) -> None:
        if spec.needs or spec.significant:
            raise BadRequest(f"{self.path} can't start {spec.id}: its children have no order")

    async def _verb_add(self, msg: AddChild, sender: Address) -> ChildReady:
        try:
            return await super()._verb_add(msg, sender)
        except Overloaded:
            self._refused.inc()
            raise

    def _happened(self, event: Event) -> None:
        super()._happened(event)
        self._used.set(self._tree.children.count()["specs"])
