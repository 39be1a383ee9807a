"""One fleet of all nodes: the own workers, and what the other nodes say of theirs.

The configuration gives every worker of a cluster an id of its own. Should two nodes speak of the
same one, as for a moment when a worker moves, the second is called `node/worker` here: nobody
takes the place of another node's worker by taking its name.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from msgspec.structs import replace

from actors.contracts import Fleet, HealthReport
from actors.roster.fleet_snapshot import differs

_HOLD_S: Final = 1.0  # after a worker's connection was lost, and twice as long each time after
_MOST_HOLD_S: Final = 8.0
_STEADY_S: Final = 30.0  # a loss after so long is a first one
_MAX_LOST: Final = 4096


class RosterView:
    """All times are the caller's clock, in seconds. Without other nodes the fleet is the own one,
    unchanged."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._own: Fleet = Fleet(version=0, workers=())
        self._nodes: dict[str, tuple[HealthReport, ...]] = {}
        self._suspects: frozenset[str] = frozenset()
        self._lost: OrderedDict[str, tuple[int, float, float]] = OrderedDict()  # times, at, until
        self._unconfirmed: set[str] = set()  # those that their node hasn't spoken of since
        self._held: frozenset[str] = frozenset()
        self._version = 0
        self._fleet: Fleet | None = None
        self.conflicts: tuple[tuple[str, str], ...] = ()
        """Workers and models that aren't used, since they aren't what this node calls so."""

    def own(self, fleet: Fleet) -> None:
        """The workers of this node, from now on."""
        if fleet is not self._own:
            self._own = fleet
            self._changed()

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
        digests: dict[str, str] = {}
        workers: list[HealthReport] = []
        suspects: list[str] = []
        conflicts: list[tuple[str, str]] = []
        taken: set[str] = set()
        own = self._own
        for worker in own.workers:
            digests.update(_digests(worker))
            workers.append(worker)
            taken.add(worker.worker_id)
        suspects += own.suspects
        for node, those in sorted(self._nodes.items()):
            for worker in those:
                if worker.address in self._held:
                    continue
                others = [
                    ref
                    for ref, digest in _digests(worker)
                    if digests.setdefault(ref, digest) != digest
                ]
                named = worker
                if worker.worker_id in taken:
                    named = replace(worker, worker_id=f"{node}/{worker.worker_id}")
                if others:
                    conflicts += [(named.worker_id, ref) for ref in others]
                    kept = tuple(ref for ref in worker.models if ref not in others)
                    named = replace(named, models=kept, digests=())
                workers.append(named)
                taken.add(named.worker_id)
                if node in self._suspects:
                    suspects.append(named.worker_id)
        self.conflicts = tuple(conflicts)
        return Fleet(
            version=self._version, workers=tuple(workers), suspects=tuple(sorted(suspects))
        )

    def _changed(self) -> bool:
        self._version += 1
        self._fleet = None
        return True


def _digests(worker: HealthReport) -> list[tuple[str, str]]:
    """Of its models, as far as it has said them."""
    pairs = zip(worker.models, worker.digests, strict=False)
    return [(ref, digest) for ref, digest in pairs if digest]
