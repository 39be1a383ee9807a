"""Garbage collection: what no name refers to is condemned, and removed by a later run.

Marking needs every replica and every manifest that is referred to: where one can't be read,
nothing is removed anywhere. Why a push may run meanwhile stands in `condemned`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from actors.artifacts import condemned, layout, names
from actors.artifacts import digest as digests
from actors.artifacts.condemned import Condemned
from actors.artifacts.replica import ListedObject, Replica, ReplicaFault
from actors.artifacts.replicas import Replicas
from actors.errors import ArtifactLost
from supervision.telemetry import logs

log = logs.get(__name__)

GRACE: Final = timedelta(days=1)
_KINDS: Final = (layout.BLOCKS, layout.MANIFESTS, layout.SIGNATURES)


class Collected(msgspec.Struct):
    """What was done, over all replicas; `condemned` are objects that wait for a later run."""

    kept: int = 0
    condemned: int = 0
    removed: int = 0
    removed_bytes: int = 0


async def collect(
    replicas: Replicas, *, now: datetime, grace: timedelta = GRACE, keep: Iterable[str] = ()
) -> Collected:
    """Remove what nothing has referred to for `grace`, and condemn what nothing refers to now.

    Args:
        keep: digests of manifests that are in use without a name.

    Raises:
        ArtifactLost: a replica can't be reached, or a manifest that is referred to can't be
            read. Nothing was removed.
    """
    for replica in replicas.all:
        try:
            await replica.size(layout.CONDEMNED)
        except ReplicaFault as fault:
            raise ArtifactLost(
                f"what is in use is known only when all replicas answer: {fault.message}"
            ) from None
    faults = sum(replicas.faults.values())
    named = await names.listed(replicas)
    if sum(replicas.faults.values()) != faults:
        raise ArtifactLost("the names of a replica could not be read; nothing was removed")
    live: set[str] = set()
    roots = {digests.parse(address) for each in named for address in each.addresses}
    for digest in roots | set(keep):
        manifest = await replicas.manifest(digest)
        live.add(layout.manifest(digest))
        live.update(layout.block(block) for block in manifest.blocks())
        live.add(layout.signatures(digest))
    result = Collected()
    try:
        for replica in replicas.all:
            await _at(replica, live, now, grace, result)
    except ReplicaFault as fault:
        raise ArtifactLost(f"the collection broke off: {fault.message}") from None
    return result


async def _at(
    replica: Replica, live: set[str], now: datetime, grace: timedelta, result: Collected
) -> None:
    before = await condemned.condemned(replica)
    since: dict[str, datetime] = {}
    modified: dict[str, datetime] = {}
    doomed: list[ListedObject] = []
    for kind in _KINDS:
        async for kept in replica.listed(kind):
            if kept.path in live or _folder(kept.path) in live:
                result.kept += 1
                continue
            path = kept.path
            known = before.since.get(path)
            if known is None or before.modified.get(path) != kept.modified:
                since[path], modified[path] = now, kept.modified
            elif now - known >= grace:
                doomed.append(kept)
            else:
                since[path], modified[path] = known, kept.modified
    # What goes is still listed while it goes: a push that begins now sends it again, and what
    # has just been sent again is seen to be another object.
    listed = Condemned(
        since | {kept.path: before.since[kept.path] for kept in doomed},
        modified | {kept.path: kept.modified for kept in doomed},
    )
    await condemned.write(replica, listed)
    for kept in doomed:
        if await replica.modified(kept.path) == kept.modified:
            await replica.delete(kept.path)
            result.removed += 1
            result.removed_bytes += kept.size
    await condemned.write(replica, Condemned(since, modified))
    result.condemned += len(since)


def _folder(path: str) -> str:
    return path.rpartition("/")[0] + "/"
