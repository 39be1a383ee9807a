"""Refusals of certificates: the reasons, and the one that is for want of roles.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from supervision.security.name import OPERATOR, NodeName
from supervision.security.roles import roles_in


class Reason(StrEnum):
    """Why a certificate, or a connection with it, was refused."""

    ABSENT = "absent"  # there is none
    FOREIGN = "foreign"  # another authority, or another cluster, or names no node
    ROLELESS = "roleless"  # of a node, and says no role
    EXPIRED = "expired"  # its time is over
    REVOKED = "revoked"  # the authority took it back
    OTHER_NODE = "other_node"  # it is good, and somebody else's
    CROWDED = "crowded"  # it is good, and its node has too many connections


class CertificateRefused(Exception):
    """A certificate is not believed."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def certified_roles(name: NodeName, uris: Iterable[str]) -> tuple[str, ...]:
    """The roles that the certificate of `name` says with these URIs; none of an operator.

    Raises:
        CertificateRefused: it is a node's, and says none.
    """
    if name.node.startswith(OPERATOR):
        return ()
    roles = roles_in(uris, name.cluster)
    if not roles:
        raise CertificateRefused(
            Reason.ROLELESS,
            f"the certificate of node {name.node} says no roles, so it may say nothing; "
            f"`tether ca renew {name.node} --roles ROLE,…` makes one that does",
        )
    return roles
