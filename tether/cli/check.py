"""`tether check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from supervision.security.identity import NODE
from supervision.settings import ConfigInvalid
from tether.cli.failure import CommandFailed
from tether.config import Config, MemberSection, load
from tether.node.capabilities import NotOfCluster, check_identity


def check(path: Path, node: str) -> int:
    """Say that the configuration at `path` can be used, by `node` or by all of its nodes, and warn
    of what is better otherwise. The certificates that lie where they are said to be, and may be
    read, have to fit.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
        CommandFailed: a certificate doesn't fit; with all that don't.
    """
    config = load(path)
    if node or len(config.nodes) <= 1:
        found = config.at(node)
        _check_certificates([found])
        print(f"{path} is good: {_shown(found)}")
        _warn(warnings(config, found.member))
        return 0
    shown = [_shown_or_why_not(config, member) for member in config.nodes]
    _check_certificates(_readable(config))
    print(f"{path} is good:")
    for line in shown:
        print(f"  {line}")
    _warn(sentence for member in config.nodes for sentence in warnings(config, member))
    return 0


def _readable(config: Config) -> Iterator[Config]:
    for member in config.nodes:
        with suppress(ConfigInvalid):
            yield config.at(member.id)


def _check_certificates(configs: Iterable[Config]) -> None:
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


def _warn(sentences: Iterable[str]) -> None:
    for sentence in dict.fromkeys(sentences):
        print(f"warning: {sentence}", file=sys.stderr)


def _shown_or_why_not(config: Config, member: MemberSection) -> str:
    """The file of a machine without the role control may leave out what control nodes need."""
    try:
        return _shown(config.at(member.id))
    except ConfigInvalid as error:
        if all("control" in other.roles for other in config.nodes):
            raise
        why = "; ".join(str(problem) for problem in error.problems)
        return f"node {member.id} can't be started with this file: {why}"


def warnings(config: Config, member: MemberSection | None) -> Iterator[str]:
    """What this node, or the lone one, could do better about its database, in sentences."""
    stores = config.stores
    if not stores.postgres:
        return
    if member is not None and "control" not in member.roles:
        yield (
            f"stores.postgres: node {member.id} has not the role control and never uses the "
            "database; leave its DSN out of the file on that machine, for whoever reads it there "
            "can use it"
        )
    elif not stores.roles:
        yield (
            "stores.roles: every actor has all rights of the user in stores.postgres; give each "
            "kind its own with `tether db roles`, then write roles = true"
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
