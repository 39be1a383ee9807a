"""The nodes that are alive: how long each has been silent, and when not to believe the silence.

A node is suspect when its announcements are late and gone when they are very late. When many
vanish within one window, the fault is more likely ours, or the network's, than that of all of them:
they stay suspects then, for longer, as in the self-preservation of Netflix' Eureka. A node whose
host refuses connections is dead for sure, and isn't protected.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec


class Health(StrEnum):
    """How a node stands."""

    UNKNOWN = "unknown"  # never heard since we started
    ALIVE = "alive"  # heard of late
    SUSPECT = "suspect"  # its announcements are late; its workers are used last
    GONE = "gone"  # silent for too long, or it said that it leaves


class MembershipOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds of the caller's clock.

    A node is suspect after `suspect_s` of silence and gone after `expiry_s`. If at least
    `guard_least` nodes, and more than `guard_share` of those that were there, would go within one
    `expiry_s`, they stay suspect until `guard_s` of silence. Whoever wasn't asked to look for
    `pause_s` was not there to hear anything, and blames nobody for that time.

    Raises:
        ValueError: a bound is out of its range.
    """

    suspect_s: float = 10.0
    expiry_s: float = 15.0
    guard_least: int = 2
    guard_share: float = 0.5
    guard_s: float = 60.0
    pause_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.suspect_s < self.expiry_s <= self.guard_s:
            raise ValueError("a roster needs 0 < suspect_s < expiry_s <= guard_s")
        if self.guard_least < 1 or not 0 <= self.guard_share <= 1:
            raise ValueError("guard_least must be at least 1, and guard_share from 0 to 1")
        if not 0 < self.pause_s <= self.expiry_s - self.suspect_s:
            raise ValueError(
                "pause_s must be above 0 and at most expiry_s - suspect_s, else a node could go "
                "without having been suspect"
            )


class _Member:
    __slots__ = ("at", "gone_at", "health", "refused", "since")

    def __init__(self, now: float) -> None:
        self.at = now
        self.health = Health.UNKNOWN
        self.since = now
        self.refused = False
        self.gone_at: float | None = None  # by silence alone


class Membership:
    """The nodes of a configuration, without the own one. `now` never falls."""

    def __init__(self, nodes: Iterable[str], now: float, options: MembershipOptions) -> None:
        self._options = options
        self._members = {node: _Member(now) for node in nodes}
        self._looked = now
        self.guarding = False
        """Are there suspects that would be gone, were there fewer of them?"""

    def __contains__(self, node: object) -> bool:
        return node in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def health(self, node: str) -> Health:
        """How this node stands; unknown for one that isn't of the configuration."""
        member = self._members.get(node)
        return Health.UNKNOWN if member is None else member.health

    def since(self, node: str) -> float:
        """When its health became what it is."""
        return self._members[node].since

    def heard(self, node: str, now: float) -> bool:
        """An announcement of it was taken; whether its health changed."""
        member = self._members[node]
        member.at = max(member.at, now)
        member.refused = False
        member.gone_at = None
        return _becomes(member, Health.ALIVE, now)

    def left(self, node: str, now: float) -> bool:
        """It said that it leaves; whether its health changed."""
        member = self._members[node]
        member.gone_at = None
        return _becomes(member, Health.GONE, now)

    def refused(self, node: str) -> None:
        """Its host answers and lets nobody in there: the guard doesn't hold it. Until it is heard
        again."""
        if node in self._members:
            self._members[node].refused = True

    def look(self, now: float) -> tuple[str, ...]:
        """What the time has done: those whose health changed."""
        options = self._options
        gap = now - self._looked
        self._looked = now
        if gap > options.pause_s:
            for member in self._members.values():
                member.at = min(now, member.at + gap)
        here = [m for m in self._members.values() if m.health in (Health.ALIVE, Health.SUSPECT)]
        late = [m for m in here if now - m.at >= options.expiry_s]
        lately = sum(
            m.gone_at is not None and now - m.gone_at < options.expiry_s
            for m in self._members.values()
        )
        going = lately + sum(not m.refused for m in late)
        there = lately + sum(not m.refused for m in here)
        guarded = going >= options.guard_least and going > options.guard_share * there
        changed = []
        self.guarding = False
        for node, member in self._members.items():
            silent_s = now - member.at
            if member.health not in (Health.ALIVE, Health.SUSPECT) or silent_s < options.suspect_s:
                continue
            over = silent_s >= options.expiry_s
            if over and guarded and not member.refused and silent_s < options.guard_s:
                self.guarding = True
                over = False
            if over and not member.refused:
                member.gone_at = now
            if _becomes(member, Health.GONE if over else Health.SUSPECT, now):
                changed.append(node)
        return tuple(changed)


def _becomes(member: _Member, health: Health, now: float) -> bool:
    if member.health is health:
        return False
    member.health, member.since = health, now
    return True
