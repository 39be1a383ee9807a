"""Which control node is asked first: the own one, then near ones, and those last that just failed.

Any of them can do what any other can: all decisions are made in one PostgreSQL. So this is about
what is near, and about who is known to be well.

Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from typing import Final

from actors.contracts import ControlNode, ControlPlane

HOLD_S: Final = 2.0
"""How long an address that has failed is second choice: until its node has said more of it."""


class HeldAddresses:
    """Addresses that have failed just now. All times are the caller's clock, in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def failed(self, address: str, now: float) -> None:
        """It is left alone for a while, if there are others."""
        for old in [a for a, until in self._until.items() if until <= now]:
            del self._until[old]
        self._until[address] = now + HOLD_S

    def now(self, now: float) -> frozenset[str]:
        """Those that are left alone now."""
        return frozenset(a for a, until in self._until.items() if now < until)


def candidates(
    path: str,
    own: str | None,
    plane: ControlPlane,
    *,
    region: str,
    near: str = "",
    key: str = "",
    held: Collection[str] = (),
) -> tuple[str, ...]:
    """The addresses at `path`, the best first.

    Args:
        own: that of the own node.
        region: the own one; others come after it.
        near: the node that is preferred among the others: who has begun something knows it.
        key: whoever has the same is led to the same node, while that is well, and different ones
            are spread (rendezvous hashing); without it the order of the configuration holds.
    """
    found = sorted(_ranked(path, plane, region, near, key), key=lambda one: one[:-1])
    every = ([own] if own is not None else []) + [one[-1] for one in found]
    return tuple(sorted(every, key=lambda address: address in held))


def _ranked(
    path: str, plane: ControlPlane, region: str, near: str, key: str
) -> Iterator[tuple[bool, bool, bool, bool, int, str]]:
    for number, node in enumerate(plane.nodes):
        address = node.addresses.get(path)
        if address is not None:
            rank = _weight(key, node) if key else number
            yield (
                node.suspect, node.node != near, node.draining, node.region != region, rank, address
            )  # fmt: skip


def _weight(key: str, node: ControlNode) -> int:
    return zlib.crc32(f"{node.node}/{key}".encode())
