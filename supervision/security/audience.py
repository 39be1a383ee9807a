"""Audiences: who may say a contract to a process, and which of them a peer is.

A contract declares its audience where its handler stands (`supervision.runtime.dispatch.on`): the
processes of its own node always; those of the node that has placed this process at another one;
operators; nodes with one of several roles, or with any. A peer is what the socket or its
certificate says, never what it says itself. Both are sets of bits, so that a message costs one
`&`. Roles are names here, which get a bit when they are first heard of.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

_FIRST: Final = 16  # the bit of the first role
MAX_KNOWN: Final = 32  # roles, in one process
_bits: dict[str, int] = {}


class Audience(msgspec.Struct, frozen=True):
    """`Role.CONTROL | OPERATOR` are both. As text it is what completes "it is for …"."""

    mask: int

    def __or__(self, other: Audience) -> Audience:
        return Audience(self.mask | other.mask)

    def admits(self, mask: int) -> bool:
        """Is a peer with this mask one of them?"""
        return self.mask & mask != 0

    @property
    def roles(self) -> tuple[str, ...]:
        """Those that are named, sorted."""
        return tuple(sorted(name for name, bit in _bits.items() if self.mask & bit))

    def __str__(self) -> str:
        parts = ["processes of its own node"]
        if self.mask & PLACER.mask:
            parts.append("of the node that has placed it")
        if self.mask & NODE.mask:
            parts.append("of all nodes of the cluster")
        elif self.roles:
            parts.append(f"of nodes with the role {' or '.join(self.roles)}")
        if self.mask & OPERATOR.mask:
            parts.append("operators")
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


#: Processes of the own node, which are met on its Unix sockets; part of every audience.
OWN: Final = Audience(1)
#: Processes of the node for which this process was started at another one; of that alone.
PLACER: Final = Audience(2)
#: Whoever shows the certificate of an operator.
OPERATOR: Final = Audience(4)
#: Processes of any node of the cluster, whatever its roles.
NODE: Final = Audience(8)


def role(name: str) -> Audience:
    """Processes of nodes whose certificate has this role.

    Raises:
        ValueError: there are too many roles.
    """
    bit = _bit(name)
    if not bit:
        raise ValueError(f"{name!r} is one role too many; a process knows {MAX_KNOWN}")
    return Audience(bit)


def mask_of(roles: Iterable[str], *, placed: bool) -> int:
    """What a process of another node is, whose certificate has these roles; `placed` says that it
    is the node which has placed this process. 0, and so nobody, without any role."""
    mask = 0
    for name in roles:
        mask |= _bit(name) | NODE.mask
    return mask | PLACER.mask if mask and placed else mask


def _bit(name: str) -> int:
    bit = _bits.get(name)
    if bit is None:
        if len(_bits) >= MAX_KNOWN:
            return 0
        bit = _bits[name] = 1 << (_FIRST + len(_bits))
    return bit
