"""The nodes that have a worker which may run anywhere, as the fleet says. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from actors.contracts import Fleet


def holders(fleet: Fleet, worker_id: str, leaders: AbstractSet[str]) -> dict[str, bool]:
    """Those of `leaders` that have this worker, by id, and whether it answers already. One whose id
    is taken here is called `node/id` in the fleet. Only a node that may lead places such a worker:
    any other that speaks of one would keep it from being placed."""
    return {
        worker.node_id: bool(worker.models)
        for worker in fleet.workers
        if worker.worker_id.rpartition("/")[2] == worker_id and worker.node_id in leaders
    }
