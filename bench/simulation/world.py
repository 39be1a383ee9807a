"""What there is in a world: its dice, its clock, its network, who lives in it, and its laws."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bench.simulation.clock import VirtualLoop
from bench.simulation.laws import Laws, Life
from bench.simulation.ledger import Ledger
from bench.simulation.network import Network, Peer
from bench.simulation.trace import Trace
from supervision.contracts import ChildStatus
from supervision.runtime import Address
from supervision.tree import SupervisionTree


class Family(Protocol):
    """A supervisor with its processes; `Nursery` is one."""

    tree: SupervisionTree

    @property
    def living(self) -> Mapping[str, Any]:
        """By id: each a `Process`."""


class World:
    """Everything there is. `dice` decides all that chance decides, but for `hangs`."""

    def __init__(self, seed: int, *, whole: bool = False) -> None:
        self.dice = random.Random(seed)
        self.hangs = random.Random(f"hangs {seed}")
        self.trace = Trace(whole=whole)
        self.laws = Laws(self)
        self.loop = VirtualLoop(self.laws.check)
        self.trace.loop = self.loop
        self.network = Network(self.loop, self.dice, self.trace)
        self.ledger = Ledger()
        self.pids = 0
        self.kills = 0
        self.processes: dict[str, Any] = {}
        """By address: each a `Process`."""
        self.viewers: list[tuple[Peer, Callable[[], object]]] = []
        self.outcomes: dict[str, int] = {}
        self.calm = False
        self.tight = self.dice.random() < 0.4
        """Are there more models than a worker has memory for?"""
        self.outage = False
        """Is the database away?"""
        self.hung = False
        """Does reservation hang?"""
        self.back_at = 0.0
        self._told = False
        self.nurseries: dict[str, Family] = {}
        """Its supervisors, by path."""

    @property
    def now(self) -> float:
        return self.loop.time()

    def unlucky(self, chance: float) -> bool:
        """Does it happen? Never once it is calm."""
        return not self.calm and self.dice.random() < chance

    def alive(self, kind: str) -> list[Life]:
        """All living processes of a kind."""
        return [
            process
            for nursery in self.nurseries.values()
            for process in nursery.living.values()
            if process.kind == kind and process.alive
        ]

    def running(self, path: str) -> Address | None:
        """The address of the child at `path`, if it is ready."""
        parent, _, id = path.rpartition("/")
        nursery = self.nurseries.get(parent)
        if nursery is None:
            return None
        node = nursery.tree.children.node(id, self.now)
        if node is None or node.state is not ChildStatus.RUNNING or not node.address:
            return None
        return Address.parse(node.address)

    def tree_changed(self) -> None:
        """Tell who looks, a little later."""
        if not self._told:
            self._told = True
            self.loop.call_later(0.002, self._tell)

    def _tell(self) -> None:
        self._told = False
        self.viewers = [(process, view) for process, view in self.viewers if process.alive]
        for _, view in self.viewers:
            view()
