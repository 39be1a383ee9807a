"""The roles of a node, as its certificate says them.

They stand in a URI beside the one that names the node (RFC 5280, 4.2.1.6):
`tether://<cluster>/roles/<role>,<role>…`, sorted, each once, at most `MAX_ROLES`. What isn't of
exactly that form is no role at all. What a role lets a node do is no matter of this floor.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from supervision.security.name import WORD

MAX_ROLES: Final = 8  # of one node
_ROLE: Final = r"[a-z][a-z0-9_-]{0,31}"
_URI: Final = re.compile(
    rf"tether://({WORD})/roles/({_ROLE}(?:,{_ROLE}){{0,{MAX_ROLES - 1}}})", re.ASCII
)
_ANY: Final = re.compile(r"tether://[^/]*/roles(/|$)")


def checked(roles: Iterable[str]) -> tuple[str, ...]:
    """`roles`, sorted, each once.

    Raises:
        ValueError: they can't stand in a certificate.
    """
    found = tuple(sorted(set(roles)))
    for role in found:
        if not re.fullmatch(_ROLE, role, re.ASCII):
            raise ValueError(
                f"{role[:100]!r} is no role: use up to 32 small letters, digits or _-, and begin "
                "with a letter"
            )
    if len(found) > MAX_ROLES:
        raise ValueError(f"a node has {MAX_ROLES} roles at most, not {len(found)}")
    return found


def roles_uri(cluster: str, roles: Iterable[str]) -> str:
    """What stands for these in a certificate.

    Raises:
        ValueError: there are none, or they can't stand there.
    """
    found = checked(roles)
    if not found:
        raise ValueError("no role is named")
    return f"tether://{cluster}/roles/{','.join(found)}"


def roles_in(uris: Iterable[str], cluster: str) -> tuple[str, ...]:
    """The roles in `cluster` that `uris` name; none if that isn't said once, in just this form."""
    said = [uri for uri in uris if _ANY.match(uri)]
    found = _URI.fullmatch(said[0]) if len(said) == 1 else None
    if found is None or found[1] != cluster:
        return ()
    roles = tuple(found[2].split(","))
    return roles if roles == tuple(sorted(set(roles))) else ()
