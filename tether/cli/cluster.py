"""`tether cluster status`."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import msgspec

from actors.contracts import ClusterNode, ClusterShown, ShowCluster
from tether.admin.grid import Cell, Grid
from tether.cli.node import ask
from tether.config import Config

_COLOURS: Final = {"here": "green", "alive": "green", "suspect": "yellow", "unknown": "yellow"}


def status(config: Config, *, as_json: bool) -> int:
    """Print all nodes as the node of `config` sees them.

    Raises:
        CommandFailed: it doesn't run, or its roster does not answer.
    """
    shown = ask(config, ShowCluster(), ClusterShown, path="control/roster", what="show its cluster")
    if as_json:
        for node in shown.nodes:
            print(msgspec.json.encode(as_dict(node)).decode())
    else:
        _table(shown).show()
    return 0


def as_dict(node: ClusterNode) -> dict[str, object]:
    """One node for JSON; of its workers, what an operator asks for."""
    line: dict[str, object] = {f: getattr(node, f) for f in node.__struct_fields__}
    line["workers"] = [
        {
            "worker_id": worker.worker_id,
            "address": worker.address,
            "models": worker.models,
            "loading": worker.loading,
            "loadable": worker.loadable,
            "gpu_class": worker.gpu_class,
            "tokens_per_s": worker.tokens_per_s,
            "model_bytes": worker.model_bytes,
            "budget_bytes": worker.budget_bytes,
            "slots": worker.slots,
            "running": worker.running,
            "queued": worker.queued,
            "draining": worker.draining,
        }
        for worker in node.workers
    ]
    return line


def _table(shown: ClusterShown) -> Grid:
    head = ("node", "region", "state", "since", "host", "roles", "workers", "models", "version")
    return Grid([head, *map(_row, shown.nodes)], headed=True, whole=(0, 2, 4))


def _row(node: ClusterNode) -> tuple[Cell, ...]:
    return (
        (f"{node.node} leads", "bold") if node.leads else node.node,
        node.region,
        (node.state, _COLOURS.get(node.state, "red")),
        str(timedelta(seconds=int(node.since_s))) if node.since_s else "",
        node.host,
        " ".join(node.roles),
        " ".join(worker.worker_id for worker in node.workers),
        " ".join(node.models),
        node.version,
    )
