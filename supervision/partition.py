"""A supervisor of equal children among which keys are divided (Elixir's PartitionSupervisor).

`index_of` says which partition a key belongs to; `TreeView.partition` which path that is.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import msgspec

from supervision.child_commands import ChildCommands
from supervision.contracts import ChildDeleted, DeleteChild
from supervision.errors import BadRequest
from supervision.runtime import Address
from supervision.spec import ChildSpec, PartitionOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.tree import SupervisionTree
from supervision.tree_driver import TreeDriver


class PartitionSupervisor(Supervisor):
    """Starts its partitions together, and serves when all of them do."""

    Options: ClassVar[type[msgspec.Struct]] = PartitionOptions
    kind: ClassVar[str] = "partition"

    def plan(self, options: Any) -> SupervisionTree:
        return SupervisionTree(
            self.path,
            options.children,
            strategy=Strategy.ONE_FOR_ONE,
            intensity=options.intensity,
            period_s=options.period_s,
            draw=random.random,
            together=True,
        )

    def commands(self, driver: TreeDriver) -> ChildCommands:
        return PartitionCommands(self, driver, self.keep_ready)


class PartitionCommands(ChildCommands):
    """Adds no partition, and removes none: keys would change hands."""

    def check(self, spec: ChildSpec) -> None:
        raise self._fixed()

    def delete(self, msg: DeleteChild, sender: Address) -> ChildDeleted:
        raise self._fixed()

    def _fixed(self) -> BadRequest:
        path = self._actor.path
        return BadRequest(f"{path} has the partitions of its options; keys belong to them")
