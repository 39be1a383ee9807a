"""`tether check`."""

from __future__ import annotations

import os
from pathlib import Path

from supervision.security.identity import NODE
from tether.cli.failure import CommandFailed
from tether.config import Config, load
from tether.node.capabilities import NotOfCluster, check_identity


def check(path: Path, node: str) -> int:
    """Say that the configuration at `path` can be used, by `node` or by all of its nodes. The
    certificates that lie where they are said to be, and may be read, have to fit.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
        CommandFailed: a certificate doesn't fit; with all that don't.
    """
    config = load(path)
    alone = node or len(config.nodes) <= 1
    _check_certificates([config.at(node)] if alone else [config.at(m.id) for m in config.nodes])
    if alone:
        print(f"{path} is good: {_shown(config.at(node))}")
        return 0
    print(f"{path} is good:")
    for member in config.nodes:
        print(f"  {_shown(config.at(member.id))}")
    return 0


def _check_certificates(configs: list[Config]) -> None:
    """
    Raises:
        CommandFailed: one of those that are here doesn't fit.
    """
    sentences = []
    for config in configs:
        folder = config.identity_dir
        if folder is None or not os.access(folder / NODE, os.R_OK):
            continue
        try:
            check_identity(config)
        except NotOfCluster as error:
            sentences.append(str(error))
    if sentences:
        raise CommandFailed(*sentences)


def _shown(config: Config) -> str:
    processes = sum(worker.count for worker in config.workers)
    door = f"http://{config.http.host}:{config.http.port}"
    if config.member is None:
        return f"node {config.node.id}, {len(config.models)} models on {processes} workers, {door}"
    member = config.member
    doors = door if "gateway" in member.roles else "no door"
    return (
        f"node {member.id} of region {config.cluster.region} at {member.place}, "
        f"{', '.join(member.roles)}{', leader' if member.leader else ''}, {doors}"
    )
