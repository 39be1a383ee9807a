"""`tether check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from supervision.security.files import is_private
from supervision.security.identity import NODE
from supervision.settings import ConfigInvalid
from tether.cli.failure import CommandFailed
from tether.config import Config, MemberSection, load
from tether.config.cautions import cautions
from tether.config.secret_files import open_files
from tether.node.capabilities import NotOfCluster, certificate_of, check_identity


def check(path: Path, node: str, *, strict: bool = False) -> int:
    """Say that the configuration at `path` can be used, by `node` or by all of its nodes, and warn
    of what is better otherwise; with `strict` that is a failure. The certificates that lie where
    they are said to be, and may be read, have to fit.

    Raises:
        ConfigInvalid: it can't; with all mistakes.
        CommandFailed: a certificate doesn't fit; with all that don't.
    """
    config = load(path)
    if node or len(config.nodes) <= 1:
        read = [config.at(node)]
        _check_certificates(read)
        print(f"{path} is good: {_shown(read[0])}")
    else:
        shown = [_shown_or_why_not(config, member) for member in config.nodes]
        read = [one for member in config.nodes if (one := _startable(config, member))]
        _check_certificates(read)
        print(f"{path} is good:")
        for line in shown:
            print(f"  {line}")
    told = warnings(config, read, path)
    for sentence in told:
        print(f"warning: {sentence}", file=sys.stderr)
    return 1 if strict and told else 0


def warnings(config: Config, read: Iterable[Config], path: Path) -> list[str]:
    """What is better otherwise in `config`, which is at `path`, and which nodes read as `read`;
    each sentence once."""
    found: dict[str, None] = {}
    for one in read:
        whole = msgspec.structs.replace(one, stores=config.stores)  # as the file has it
        problems = [*cautions(one), *open_files(whole, path)]
        found |= dict.fromkeys(map(str, problems))
        found |= dict.fromkeys(_pair(one))
        found |= dict.fromkeys(_database(config, one.member))
    return list(found)


def _startable(config: Config, member: MemberSection) -> Config | None:
    try:
        return config.at(member.id)
    except ConfigInvalid:
        return None


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


def _shown_or_why_not(config: Config, member: MemberSection) -> str:
    """The file of a machine without the role control may leave out what control nodes need."""
    try:
        return _shown(config.at(member.id))
    except ConfigInvalid as error:
        if all("control" in other.roles for other in config.nodes):
            raise
        why = "; ".join(str(problem) for problem in error.problems)
        return f"node {member.id} can't be started with this file: {why}"


def _database(config: Config, member: MemberSection | None) -> Iterator[str]:
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
    scheme = "https" if config.http.tls else "http"
    door = f"{scheme}://{config.http.host}:{config.http.port}"
    if config.member is None:
        return f"node {config.node.id}, {len(config.models)} models on {processes} workers, {door}"
    member = config.member
    doors = door if "door" in member.roles else "no door"
    return (
        f"node {member.id} of region {config.cluster.region} at {member.place}, "
        f"{', '.join(member.roles)}{', leader' if member.leader else ''}, {doors}"
    )
