"""One fleet of all nodes: the own workers, and what the other nodes say of theirs.

The configuration gives every worker of a cluster an id of its own. Should two nodes speak of the
same one, as for a moment when a worker moves, the one whose it isn't is called `node/worker` here
(`actors.roster.worker_names`), and a model that isn't what is called so here isn't asked for
(`actors.roster.model_meanings`): nobody takes the place of another node's worker.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec.structs import replace

from actors.contracts import Fleet, HealthReport, ModelCard
from actors.roster.fleet_snapshot import differs
from actors.roster.model_meanings import ModelMeanings, without
from actors.roster.worker_names import WorkerNames

_HOLD_S: Final = 1.0  # after a worker's connection was lost, and twice as long each time after
_MOST_HOLD_S: Final = 8.0
_STEADY_S: Final = 30.0  # a loss after so long is a first one
_MAX_LOST: Final = 4096


class Claim(NamedTuple):
    """A process of `node` says that it is the worker `worker_id`, or (with `ref`) that the model of
    this name is another than it is here, and isn't believed."""

    node: str
    worker_id: str
    ref: str = ""


class RosterView:
    """All times are the caller's clock, in seconds. Without `others`, which are the other nodes of
    the configuration, the fleet is that of the own `node`, unchanged."""

    def __init__(self, node: str, others: Iterable[str] = ()) -> None:
        others = tuple(others)
        self._node = node
        self._alone = not others
        self._names = WorkerNames(node, others)
        self._meanings = ModelMeanings()
        self._own: Fleet = Fleet(version=0, workers=())
        self._nodes: dict[str, tuple[HealthReport, ...]] = {}
        self._suspects: frozenset[str] = frozenset()
        self._lost: OrderedDict[str, tuple[int, float, float]] = OrderedDict()  # times, at, until
        self._unconfirmed: set[str] = set()  # those that their node hasn't spoken of since
        self._held: frozenset[str] = frozenset()
        self._version = 0
        self._fleet: Fleet | None = None
        self.claims: tuple[Claim, ...] = ()
        """What isn't taken of what other nodes say, in the fleet that was asked for last."""

    def own(self, fleet: Fleet) -> None:
        """The workers of this node, from now on."""
        if fleet is not self._own:
            self._own = fleet
            self._changed()

    def offered(self, cards: Iterable[ModelCard]) -> bool:
        """The catalog of this node, from now on; whether the fleet changed."""
        return self._meanings.catalog(cards) and self._changed()

    def of(self, node: str) -> tuple[HealthReport, ...]:
        """What this node has said of its workers; nothing if it is gone."""
        return self._nodes.get(node, ())

    def put(self, node: str, workers: tuple[HealthReport, ...]) -> bool:
        """The workers of another node, from now on; whether the fleet changed."""
        before = self._nodes.get(node, ())
        self._nodes[node] = workers
        if self._unconfirmed:
            self._unconfirmed.difference_update(worker.address for worker in workers)
        same = len(before) == len(workers) and not any(
            old.worker_id != new.worker_id or differs(old, new)
            for old, new in zip(before, workers, strict=True)
        )
        return not same and self._changed()

    def drop(self, node: str) -> bool:
        """That node is gone; whether the fleet changed."""
        return bool(self._nodes.pop(node, ())) and self._changed()

    def doubt(self, nodes: frozenset[str]) -> bool:
        """The workers of these nodes are used last, of no others; whether the fleet changed."""
        if nodes == self._suspects:
            return False
        self._suspects = nodes
        return self._changed()

    def lost(self, address: str, now: float) -> bool:
        """The connection to a worker of another node broke: it is left out until its node has
        spoken of it again, and at least for a while. Whether the fleet changed."""
        times, at, _ = self._lost.pop(address, (0, now, now))
        times = 1 if now - at > _STEADY_S else times + 1
        until = now + min(_MOST_HOLD_S, _HOLD_S * 2 ** (times - 1))
        self._lost[address] = (times, now, until)
        self._unconfirmed.add(address)
        while len(self._lost) > _MAX_LOST:
            self._unconfirmed.discard(self._lost.popitem(last=False)[0])
        return self.look(now)

    def look(self, now: float) -> bool:
        """Those that were left out long enough, and are spoken of, come back; whether the fleet
        changed."""
        held = frozenset(
            address
            for address, (_, _, until) in self._lost.items()
            if now < until or address in self._unconfirmed
        )
        if held == self._held:
            return False
        self._held = held
        return self._changed()

    @property
    def addresses(self) -> frozenset[str]:
        """Of all workers of other nodes that are in the fleet."""
        return frozenset(
            worker.address
            for workers in self._nodes.values()
            for worker in workers
            if worker.address not in self._held
        )

    @property
    def fleet(self) -> Fleet:
        """All workers; the same object until something changes."""
        if self._alone:
            return self._own
        if self._fleet is None:
            self._fleet = self._merged()
        return self._fleet

    def _merged(self) -> Fleet:
        """What another node's process says, of our own workers' too, counts for itself only."""
        own = self._own
        here = [worker for worker in own.workers if self._where(worker) == self._node]
        away = [worker for worker in own.workers if self._where(worker) != self._node]
        theirs = [
            (node, worker)
            for node, those in sorted(self._nodes.items())
            for worker in those
            if worker.address not in self._held
        ]
        self._meanings.settle(here, (*away, *(worker for _, worker in theirs)))
        self._names.settle(
            (worker.worker_id for worker in own.workers),
            ((node, w.worker_id) for node, those in sorted(self._nodes.items()) for w in those),
        )
        claims: list[Claim] = []
        suspects = list(own.suspects)
        workers = here
        for node, worker in [*((self._node, worker) for worker in away), *theirs]:
            named = worker
            if not self._names.holds(node, worker.worker_id):
                named = replace(worker, worker_id=f"{node}/{worker.worker_id}")
                claims.append(Claim(node, worker.worker_id))
            if refs := self._meanings.others(worker):
                claims += [Claim(self._where(worker), named.worker_id, ref) for ref in sorted(refs)]
                named = without(named, refs)
            workers.append(named)
            if node in self._suspects:
                suspects.append(named.worker_id)
        self.claims = tuple(claims)
        return Fleet(
            version=self._version, workers=tuple(workers), suspects=tuple(sorted(suspects))
        )

    def _where(self, worker: HealthReport) -> str:
        """The node that it runs at."""
        return worker.address.partition("/")[0]

    def _changed(self) -> bool:
        self._version += 1
        self._fleet = None
        return True
