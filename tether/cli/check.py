"""`tether check`."""

from __future__ import annotations

from pathlib import Path

from tether.config import load


def check(path: Path) -> int:
    """Say that the configuration at `path` can be used.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
    """
    config = load(path)
    processes = sum(worker.count for worker in config.workers)
    print(
        f"{path} is good: node {config.node.id}, {len(config.models)} models on {processes} "
        f"workers, http://{config.http.host}:{config.http.port}"
    )
    return 0
