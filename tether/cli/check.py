"""`tether check`."""

from __future__ import annotations

from pathlib import Path

from tether.config import Config, load


def check(path: Path, node: str) -> int:
    """Say that the configuration at `path` can be used, by `node` or by all of its nodes.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
    """
    config = load(path)
    if node or len(config.nodes) <= 1:
        print(f"{path} is good: {_shown(config.at(node))}")
        return 0
    print(f"{path} is good:")
    for member in config.nodes:
        print(f"  {_shown(config.at(member.id))}")
    return 0


def _shown(config: Config) -> str:
    processes = sum(worker.count for worker in config.workers)
    scheme = "https" if config.http.tls else "http"
    door = f"{scheme}://{config.http.host}:{config.http.port}"
    if config.member is None:
        return f"node {config.node.id}, {len(config.models)} models on {processes} workers, {door}"
    member = config.member
    doors = door if "gateway" in member.roles else "no door"
    return (
        f"node {member.id} of region {config.cluster.region} at {member.place}, "
        f"{', '.join(member.roles)}{', leader' if member.leader else ''}, {doors}"
    )
