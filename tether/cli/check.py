"""`tether check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from supervision.security.files import is_private
from tether.config import Config, load
from tether.config.cautions import cautions
from tether.config.secret_files import open_files
from tether.node.capabilities import NotOfCluster, certificate_of


def check(path: Path, node: str, *, strict: bool = False) -> int:
    """Say that the configuration at `path` can be used, by `node` or by all of its nodes, and warn
    of what is better otherwise; with `strict` that is a failure.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
    """
    config = load(path)
    if node or len(config.nodes) <= 1:
        read = [config.at(node)]
        print(f"{path} is good: {_shown(read[0])}")
    else:
        read = [config.at(member.id) for member in config.nodes]
        print(f"{path} is good:")
        for one in read:
            print(f"  {_shown(one)}")
    told = warnings(read, path)
    for sentence in told:
        print(f"warning: {sentence}", file=sys.stderr)
    return 1 if strict and told else 0


def warnings(read: Iterable[Config], path: Path) -> list[str]:
    """What is better otherwise in the configuration at `path`, as these nodes read it; each
    sentence once."""
    found: dict[str, None] = {}
    for config in read:
        problems = [*cautions(config), *open_files(config, path)]
        found |= dict.fromkeys(map(str, problems))
        found |= dict.fromkeys(_pair(config))
    return list(found)


def _pair(config: Config) -> Iterator[str]:
    """What is wrong with the certificate of the front doors, if that of this node is here."""
    files = config.tls_files
    if files is None or not all(os.access(file, os.R_OK) for file in files):
        return
    if is_private(files[1]):  # else that is told already
        try:
            certificate_of(config)
        except NotOfCluster as error:
            yield str(error)


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
