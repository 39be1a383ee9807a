"""`tether ca`: the authority that says which nodes belong to the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from actors.core.node_roles import ROLES
from supervision.security.authority import REVOKED, Authority, AuthorityUnusable, Issued
from supervision.security.certificate import KeyKind
from supervision.security.name import OPERATOR
from tether.admin.grid import Grid
from tether.cli.failure import CommandFailed

_HOUR: Final = 3600.0
_T = TypeVar("_T")


def init(folder: Path, cluster: str, *, days: float, key: KeyKind) -> int:
    """Make the authority of a cluster.

    Raises:
        CommandFailed: `folder` holds one, can't be written, or `cluster` is no name.
    """
    _done(lambda: Authority.init(folder, cluster, key=key, lifetime_s=days * 24 * _HOUR))
    print(f"made the authority of cluster {cluster} in {folder}; keep the folder off every node")
    return 0


def issue(
    folder: Path, node: str, *, roles: str, hours: float, key: KeyKind, to: Path | None
) -> int:
    """Make a key and a certificate for `node`, and say where they are. A node has all roles unless
    some are named; an operator has none."""
    authority = _done(lambda: Authority.open(folder))
    given = _roles(roles) or (() if node.startswith(OPERATOR) else ROLES)
    made = _done(
        lambda: authority.issue(node, lifetime_s=hours * _HOUR, key=key, to=to, roles=given)
    )
    return _told(authority, made, to)


def renew(folder: Path, node: str, *, roles: str, hours: float | None, to: Path | None) -> int:
    """Make a new key and certificate for a node that has one."""
    authority = _done(lambda: Authority.open(folder))
    lifetime = hours * _HOUR if hours is not None else None
    given = _roles(roles)
    made = _done(lambda: authority.renew(node, lifetime_s=lifetime, to=to, roles=given))
    return _told(authority, made, to)


def revoke(folder: Path, which: str) -> int:
    """Revoke all certificates of a node, or the one of a serial."""
    authority = _done(lambda: Authority.open(folder))
    revoked = _done(lambda: authority.revoke(which))
    for one in revoked:
        print(f"revoked {one.serial} of {one.node}")
    if not revoked:
        print("nothing to do: revoked already")
    print(f"copy {folder / REVOKED} into the identity folder of every node")
    return 0


def list_(folder: Path, *, as_json: bool) -> int:
    """Print what was issued."""
    found = _done(lambda: Authority.open(folder).listed())
    now = time.time()
    if as_json:
        for one in found:
            line = {**msgspec.to_builtins(one), "state": one.state(now)}
            print(msgspec.json.encode(line).decode())
        return 0
    rows = [
        (o.node, ",".join(o.roles), o.state(now), _moment(o.ends_at), o.key, o.serial)
        for o in found
    ]
    heads = ("node", "roles", "state", "ends", "key", "serial")
    Grid([heads, *rows], headed=True, whole=(0, 5)).show()
    return 0


def _roles(text: str) -> tuple[str, ...]:
    """
    Raises:
        CommandFailed: `text` names something else.
    """
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    for role in found:
        if role not in ROLES:
            raise CommandFailed(
                f"there is no role {role[:100]!r}; write one or several of {','.join(ROLES)}"
            )
    return found


def _told(authority: Authority, made: Issued, to: Path | None) -> int:
    roles = f" ({', '.join(made.roles)})" if made.roles else ""
    print(
        f"node {made.node}{roles} of cluster {authority.cluster}: "
        f"{to or authority.folder_of(made.node)}, until {_moment(made.ends_at)}"
    )
    return 0


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


def _done(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except (AuthorityUnusable, ValueError) as error:
        raise CommandFailed(str(error)) from error
