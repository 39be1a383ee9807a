"""`tether check`."""

from __future__ import annotations

import sys
from pathlib import Path

from supervision.settings import ConfigInvalid
from tether.config import Config, MemberSection, load


def check(path: Path, node: str) -> int:
    """Say that the configuration at `path` can be used, by `node` or by all of its nodes, and warn
    of what is better otherwise.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
    """
    config = load(path)
    if node or len(config.nodes) <= 1:
        found = config.at(node)
        print(f"{path} is good: {_shown(found)}")
        if found.member is not None:
            _warn(config, found.member)
        return 0
    shown = [_shown_or_why_not(config, member) for member in config.nodes]
    print(f"{path} is good:")
    for line in shown:
        print(f"  {line}")
    for member in config.nodes:
        _warn(config, member)
    return 0


def _shown_or_why_not(config: Config, member: MemberSection) -> str:
    """The file of a machine without the role control may leave out what control nodes need."""
    try:
        return _shown(config.at(member.id))
    except ConfigInvalid as error:
        if all("control" in other.roles for other in config.nodes):
            raise
        why = "; ".join(str(problem) for problem in error.problems)
        return f"node {member.id} can't be started with this file: {why}"


def _warn(config: Config, member: MemberSection) -> None:
    if config.stores.postgres and "control" not in member.roles:
        print(
            f"warning: stores.postgres: node {member.id} has not the role control and never uses "
            "the database; leave its DSN out of the file on that machine, for whoever reads it "
            "there can use it",
            file=sys.stderr,
        )


def _shown(config: Config) -> str:
    processes = sum(worker.count for worker in config.workers)
    door = f"http://{config.http.host}:{config.http.port}"
    if config.member is None:
        return f"node {config.node.id}, {len(config.models)} models on {processes} workers, {door}"
    member = config.member
    doors = door if "door" in member.roles else "no door"
    return (
        f"node {member.id} of region {config.cluster.region} at {member.place}, "
        f"{', '.join(member.roles)}{', leader' if member.leader else ''}, {doors}"
    )
