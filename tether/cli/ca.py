"""`tether ca`: the authority that says which nodes belong to the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from supervision.security.authority import REVOKED, Authority, AuthorityUnusable, Issued
from supervision.security.certificate import KeyKind
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


def issue(folder: Path, node: str, *, hours: float, key: KeyKind, to: Path | None) -> int:
    """Make a key and a certificate for `node`, and say where they are."""
    authority = _done(lambda: Authority.open(folder))
    made = _done(lambda: authority.issue(node, lifetime_s=hours * _HOUR, key=key, to=to))
    return _told(authority, made, to)


def renew(folder: Path, node: str, *, hours: float | None, to: Path | None) -> int:
    """Make a new key and certificate for a node that has one."""
    authority = _done(lambda: Authority.open(folder))
    lifetime = hours * _HOUR if hours is not None else None
    return _told(authority, _done(lambda: authority.renew(node, lifetime_s=lifetime, to=to)), to)


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
    rows = [(o.node, o.state(now), _moment(o.ends_at), o.key, o.serial) for o in found]
    Grid([("node", "state", "ends", "key", "serial"), *rows], headed=True, whole=(0, 4)).show()
    return 0


def _told(authority: Authority, made: Issued, to: Path | None) -> int:
    print(
        f"node {made.node} of cluster {authority.cluster}: {to or authority.folder_of(made.node)}, "
        f"until {_moment(made.ends_at)}"
    )
    return 0


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


def _done(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except (AuthorityUnusable, ValueError) as error:
        raise CommandFailed(str(error)) from error
