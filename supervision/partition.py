"""A supervisor of equal children among which keys are divided (Elixir's PartitionSupervisor).

`index_of` says which partition a key belongs to; `TreeView.partition` which path that is.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import msgspec

from supervision.contracts import ChildDeleted, DeleteChild
from supervision.errors import BadRequest
from supervision.runtime import Address
from supervision.spec import ChildSpec, PartitionOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.tree import SupervisionTree


class PartitionSupervisor(Supervisor):
    """Starts its partitions together, and serves when all of them do."""

    Options: ClassVar[type[msgspec.Struct]] = PartitionOptions
    kind: ClassVar[str] = "partition"

    def check(self, spec: ChildSpec) -> None:
        raise BadRequest(f"{self.path} has the partitions of its options; keys belong to them")

    def _verb_delete(self, msg: DeleteChild, sender: Address) -> ChildDeleted:
        raise BadRequest(f"{self.path} has the partitions of its options; keys belong to them")

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
