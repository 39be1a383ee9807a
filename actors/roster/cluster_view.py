"""The cluster as one roster sees it: for operators, and for who needs control nodes."""

from __future__ import annotations

from typing import Final

from actors.contracts import (
    ClusterNode,
    ClusterShown,
    ControlNode,
    ControlPlane,
    Fleet,
    HealthReport,
)
from actors.roster.cluster_members import ClusterMembers
from actors.roster.membership import Health
from actors.roster.options import OtherNode, RosterOptions
from supervision.release import VERSION

HERE: Final = "here"
CONTROL: Final = "control"
_THERE: Final = (Health.ALIVE, Health.SUSPECT)


def shown(
    options: RosterOptions, own: Fleet, others: ClusterMembers | None, now: float
) -> ClusterShown:
    """The own node first, the others in the order of the configuration."""
    here = ClusterNode(
        node=options.node_id,
        region=options.region,
        state=HERE,
        host=options.host,
        roles=options.roles,
        leads=others is not None and others.condition.leads,
        version=VERSION,
        epoch=0 if others is None else others.epoch,
        workers=own.workers,
        models=_models(own.workers),
        draining=others is not None and others.orders.draining,
    )
    rest = () if others is None else tuple(_other(o, others, now) for o in options.others)
    return ClusterShown(node=options.node_id, nodes=(here, *rest))


def _other(other: OtherNode, others: ClusterMembers, now: float) -> ClusterNode:
    health = others.members.health(other.id)
    heard = others.heard.get(other.id)
    there = health in _THERE
    workers = heard.presence.workers if heard is not None and there else ()
    return ClusterNode(
        node=other.id,
        region=other.region if heard is None else heard.presence.region,
        state=str(health),
        since_s=max(0.0, now - others.members.since(other.id)),
        host=other.host,
        roles=other.roles if heard is None else heard.presence.roles,
        leads=heard is not None and there and heard.presence.leads,
        version="" if heard is None else heard.presence.release,
        epoch=0 if heard is None else heard.epoch,
        workers=workers,
        models=_models(workers),
        draining=heard is not None and there and heard.presence.draining,
    )


def control_plane(options: RosterOptions, others: ClusterMembers) -> ControlPlane:
    """Which nodes have the role is what the configuration says of them, not they themselves."""
    nodes = []
    for other in options.others:
        heard, health = others.heard.get(other.id), others.members.health(other.id)
        if CONTROL not in other.roles or heard is None or health not in _THERE:
            continue
        presence = heard.presence
        nodes.append(
            ControlNode(
                node=other.id,
                region=other.region,
                addresses=presence.addresses,
                suspect=health is Health.SUSPECT,
                draining=presence.draining,
            )
        )
    return ControlPlane(nodes=tuple(nodes))


def _models(workers: tuple[HealthReport, ...]) -> tuple[str, ...]:
    return tuple(sorted({ref for worker in workers for ref in worker.models}))
