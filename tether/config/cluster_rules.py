"""The rules of a configuration about the nodes of a cluster among each other. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from supervision.settings import Problem
from tether.config.sections import OLD_ROLE, Config, MemberSection, WorkerSection

_BOTH: Final = ("door", "control")
OURS: Final = ("node", "region", "roles")  # capabilities that every node has anyway
DUTIES: Final = (
    ("door", "takes requests"),
    ("control", "places and settles them"),
    ("worker", "runs models"),
)
_MAX_ID: Final = 64  # of a child of a supervisor


def cluster_violations(
    config: Config, nodes: Sequence[MemberSection | None], workers: Sequence[WorkerSection | None]
) -> Iterator[Problem]:
    """A problem for each rule that is broken; None stands for an entry that could not be read, as
    in `rules.violations`."""
    yield from _each(config, nodes)
    readable = [m for m in nodes if m]
    if len(nodes) > 1:
        yield from _shared(config)
    if readable and None not in nodes:
        yield from _whole(config, readable)
    if None not in nodes:
        yield from _placed(config, readable, workers)


def _each(config: Config, nodes: Sequence[MemberSection | None]) -> Iterator[Problem]:
    ids: dict[str, int] = {}
    places: dict[str, int] = {}
    hosts: dict[str, int] = {}
    for number, member in enumerate(nodes):
        if member is None:
            continue
        path = f"nodes[{number}]"
        first = ids.setdefault(member.id, number)
        if first != number:
            yield Problem(f"{path}.id", f"nodes[{first}] is called {member.id!r} already")
            continue
        first = places.setdefault(member.place, number)
        if first != number:
            yield Problem(
                f"{path}.admin_port",
                f"nodes[{first}] has {member.place} already; take another port or host",
            )
        first = hosts.setdefault(member.host, number)
        if first != number and "{node}" not in config.node.data_dir:
            yield Problem(
                f"{path}.host",
                f"nodes[{first}] is at {member.host} too, and both would have the data directory "
                f"{config.node.data_dir!r}; write '{{node}}' into node.data_dir",
            )
        if OLD_ROLE in member.roles:
            now = ("door", "control", *(r for r in member.roles if r not in (OLD_ROLE, *_BOTH)))
            yield Problem(
                f"{path}.roles",
                f"the role 'gateway' is now called by its two parts, 'door' and 'control'; write "
                f"roles = {json.dumps(now)}",
            )
        for key in OURS:
            if key in member.capabilities:
                yield Problem(
                    f"{path}.capabilities.{key}", "every node has this one by itself; remove it"
                )
        yield from _ports(path, member)


def _ports(path: str, member: MemberSection) -> Iterator[Problem]:
    if member.ports:
        first, _, last = member.ports.partition("-")
        if not 1 <= int(first) <= int(last) <= 65535:
            yield Problem(f"{path}.ports", f"{member.ports!r} must rise and lie in 1..65535")
        elif int(first) <= member.admin_port <= int(last):
            yield Problem(
                f"{path}.ports", f"{member.ports!r} holds the admin_port {member.admin_port}"
            )


def _shared(config: Config) -> Iterator[Problem]:
    """What several nodes need, and one does not."""
    if not config.node.identity_dir:
        yield Problem(
            "node.identity_dir",
            "several nodes talk by mutual TLS only; write where each has its certificate (see "
            "`tether ca issue`), such as 'identity/{node}'",
        )


def _whole(config: Config, nodes: Sequence[MemberSection]) -> Iterator[Problem]:
    for role, what in DUTIES:
        if not any(role in member.roles for member in nodes):
            yield Problem("nodes", f"no node has the role {role!r}, so none {what}")
    led = {config.region_of(member) for member in nodes if member.leader}
    told: set[str] = set()
    for number, member in enumerate(nodes):
        region = config.region_of(member)
        if len(nodes) > 1 and region not in led and region not in told:
            told.add(region)
            yield Problem(
                f"nodes[{number}].leader",
                f"region {region!r} has no leader; write leader = true at one node or several",
            )


def _placed(
    config: Config, nodes: Sequence[MemberSection], workers: Sequence[WorkerSection | None]
) -> Iterator[Problem]:
    by_id = {member.id: member for member in nodes}
    longest = max((len(m.id) for m in nodes), default=-1)
    for number, worker in enumerate(workers):
        if worker is None:
            continue
        path = f"workers[{number}]"
        if nodes and max(map(len, worker.ids)) + 1 + longest > _MAX_ID:
            yield Problem(f"{path}.id", "with the id of a node it is longer than 64; shorten it")
        if worker.node and worker.requires:
            yield Problem(f"{path}.requires", "it names a node already; remove one of the two")
        elif worker.node:
            member = by_id.get(worker.node)
            if member is None:
                listed = ", ".join(by_id) or "none"
                yield Problem(
                    f"{path}.node", f"no node is called {worker.node!r}; listed are: {listed}"
                )
            elif "worker" not in member.roles:
                yield Problem(f"{path}.node", f"node {worker.node} has not the role 'worker'")
        elif worker.requires and not any(m.meets(worker.requires) for m in nodes):
            yield Problem(
                f"{path}.requires",
                "no node of [[nodes]] with the role 'worker' has all of these capabilities",
            )
