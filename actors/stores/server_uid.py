"""A uid for one embedded PostgreSQL, and nobody else: found, and given a cluster.

Only root can do that. What runs as nobody (65534) is not alone: other services do too, and each of
them might read and change whatever nobody owns. So the server gets, in this order,

- the system user `tether-postgres`, if there is one,
- a number of `RANGES`, derived from where the data lie, as long as it has no name in the system's
  tables and no process. The first range is what systemd's UIDS-GIDS.md calls unused, below the
  last that fit a signed number; the second, for containers that have fewer, that of systemd's own
  transient users, which it takes by the same rule.

Whose files a cluster is says which number it was: it keeps that as long as it has it alone.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from actors.stores import postmaster

NOBODY: Final = 65534  # the uid that Linux itself gives to those it doesn't know
NAME: Final = "tether-postgres"
RANGES: Final = (range(2_080_374_784, 2_147_483_647), range(61_184, 65_520))
MOST_TRIES: Final = 64  # numbers that are looked at in a range


@dataclass(frozen=True)
class Account:
    """Who runs a server."""

    uid: int
    gid: int


def is_ours(owner: int | None) -> bool:
    """Was an owner of a cluster chosen by us, or by a release before? Else it is somebody whom
    whoever runs the node has given it to, and stays."""
    return owner in (None, 0, NOBODY) or any(owner in numbers for numbers in RANGES)


def accounts(cluster: Path, owner: int | None) -> Iterator[Account]:
    """Who may run the server of `cluster`, which belongs to `owner`; the best first."""
    taken = _used(lambda pid: postmaster.works_in(pid, cluster))
    try:
        named = pwd.getpwnam(NAME)
    except KeyError:
        pass
    else:
        if named.pw_uid not in taken:
            yield Account(named.pw_uid, named.pw_gid)
    yield from _numbered(cluster, owner, taken)


def unnamed(place: Path, owner: int | None, is_ours: Callable[[int], bool]) -> Iterator[Account]:
    """Who may run another server, one whose data lie at `place` and belong to `owner`; `is_ours`
    tells its own processes, by their pids."""
    yield from _numbered(place, owner, _used(is_ours))


def _numbered(place: Path, owner: int | None, taken: frozenset[int]) -> Iterator[Account]:
    for numbers in RANGES:
        if owner is not None and owner in numbers and _free(owner, taken):
            yield Account(owner, owner)
        number = next((n for n in _candidates(place, numbers) if _free(n, taken)), None)
        if number is not None:
            yield Account(number, number)


def hand_over(cluster: Path, account: Account) -> None:
    """Gives `cluster` to `account`, the folder itself last: until then it isn't done. No link is
    followed: whoever owned it may have put it there.

    Raises:
        OSError: it can't be done.
        ValueError: it has tablespaces elsewhere that are not `account`'s.
    """
    for link in (cluster / "pg_tblspc").glob("*"):
        if link.is_symlink() and link.exists() and link.stat().st_uid != account.uid:
            raise ValueError(
                f"its tablespace {link.readlink()} must belong to uid {account.uid}; stop the "
                f"node, and run `chown -R {account.uid}:{account.gid}` on it"
            )
    for _, folders, files, at in os.fwalk(cluster, topdown=False, follow_symlinks=False):
        for name in (*folders, *files):
            there = os.stat(name, dir_fd=at, follow_symlinks=False)
            if (there.st_uid, there.st_gid) != (account.uid, account.gid):
                os.chown(name, account.uid, account.gid, dir_fd=at, follow_symlinks=False)
    os.chown(cluster, account.uid, account.gid)
    cluster.chmod(0o700)


def _candidates(cluster: Path, numbers: range) -> Iterator[int]:
    """Numbers for a server of this place: the same at each start."""
    digest = hashlib.sha256(os.fsencode(cluster.resolve())).digest()
    begin = int.from_bytes(digest[:8], "big")
    for step in range(MOST_TRIES):
        yield numbers[(begin + step) % len(numbers)]


def _free(number: int, taken: frozenset[int]) -> bool:
    """Has nobody this number, as uid or as gid?"""
    if number in taken:
        return False
    for look in (pwd.getpwuid, grp.getgrgid):
        try:
            look(number)
        except KeyError:
            continue
        return False
    return True


def _used(is_ours: Callable[[int], bool]) -> frozenset[int]:
    """The uids of all processes but those of the server itself."""
    found: set[int] = set()
    for process in psutil.process_iter():
        try:
            if not is_ours(process.pid):
                found.update(process.uids())
        except psutil.Error:  # it ended just now
            continue
    return frozenset(found)
