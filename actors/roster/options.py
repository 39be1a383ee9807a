"""Options of a roster."""

from __future__ import annotations

import msgspec

from actors.roster.fleet_snapshot import EXPIRY_S, SUSPECT_S
from actors.roster.membership import MembershipOptions


class OtherNode(msgspec.Struct, frozen=True, kw_only=True):
    """Another node of the configuration, and where its Admin is."""

    id: str
    admin_port: int
    region: str = "local"
    host: str = ""
    roles: tuple[str, ...] = ()


class RosterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of this node that is silent for `suspect_s` is second choice, after `expiry_s` it is
    none. `others` are the other nodes of the cluster, `membership` says when those are gone, and
    every `announce_s` they hear of this one. `state_dir` keeps the epoch; without it the clock
    alone makes it.

    Raises:
        ValueError: a bound is out of its range, or a node is listed twice.
    """

    expiry_s: float = EXPIRY_S
    suspect_s: float = SUSPECT_S
    max_workers: int = 4096
    node_id: str = "n1"
    region: str = "local"
    host: str = ""
    admin_port: int = 0
    roles: tuple[str, ...] = ()
    capabilities: dict[str, str | int | float | bool] = {}
    others: tuple[OtherNode, ...] = ()
    membership: MembershipOptions = MembershipOptions()
    announce_s: float = 5.0
    state_dir: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.suspect_s <= self.expiry_s:
            raise ValueError("suspect_s must be above 0 and at most expiry_s")
        if self.max_workers < 1:
            raise ValueError("max_workers must be at least 1")
        if not 0 < self.announce_s < self.membership.suspect_s:
            raise ValueError("announce_s must be above 0 and below the membership's suspect_s")
        ids = [self.node_id, *(other.id for other in self.others)]
        if len(set(ids)) != len(ids):
            raise ValueError("a node is among the others twice, or is this one")
