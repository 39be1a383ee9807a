"""Repair of the replicas: what is missing or damaged at one is taken from another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts import layout, names
from actors.artifacts.crew import each
from actors.artifacts.manifest import MAX_MANIFEST, Manifest
from actors.artifacts.pull import Progress
from actors.artifacts.replica import FaultKind, Replica, ReplicaFault
from actors.artifacts.replicas import MAX_SIGNATURE, Replicas
from actors.errors import ArtifactLost, ArtifactRefused
from supervision.telemetry import logs

log = logs.get(__name__)

_NAMES: Final = 100  # of what is lost


class Repaired(msgspec.Struct):
    """What was found and done, over all replicas."""

    checked: int = 0  # objects
    repaired: int = 0
    away: list[str] = msgspec.field(default_factory=list)  # replicas that can't be reached
    lost: list[str] = msgspec.field(default_factory=list)  # what no replica has whole


class _Object(msgspec.Struct, frozen=True):
    path: str
    digest: str
    most: int
    size: int | None = None


async def repair(
    replicas: Replicas,
    *,
    keep: Iterable[str] = (),
    deep: bool = True,
    progress: Progress | None = None,
) -> Repaired:
    """Check and repair all that names and `keep` (digests of manifests) refer to.

    Args:
        deep: read every object and verify its digest; else only look at its size.

    Raises:
        ArtifactLost: no replica can be reached.
    """
    result = Repaired()
    named = await names.listed(replicas)
    alive: list[Replica] = []
    for replica in replicas.all:
        try:
            await replica.size(layout.CONDEMNED)
            alive.append(replica)
        except ReplicaFault:
            result.away.append(replica.name)
    work = _Work(replicas, alive, result, deep)
    said = [digests.parse(address) for entry in named for address in entry.addresses]
    wanted = dict.fromkeys([*said, *keep])
    objects: dict[str, _Object] = {}
    for digest in wanted:
        for found in await work.objects(digest):
            objects[found.path] = found
    done = 0

    async def mend(item: _Object) -> None:
        nonlocal done
        await work.mend(item)
        done += 1
        if progress is not None:
            progress("checking", done / len(objects))

    await each(iter(objects.values()), mend, parallel=replicas.parallel)
    for entry in named:  # last, as in a push: a name stands for what is there
        await work.rename(entry)
    return result


class _Work:
    def __init__(
        self, replicas: Replicas, alive: list[Replica], result: Repaired, deep: bool
    ) -> None:
        self._replicas = replicas
        self._alive = alive
        self._result = result
        self._deep = deep
        self._whole: set[str] = set()  # manifests that can be read

    async def objects(self, digest: str) -> list[_Object]:
        """All that belongs to the artifact."""
        own = _Object(layout.manifest(digest), digest, MAX_MANIFEST)
        try:
            manifest = await self._replicas.manifest(digest)
        except (ArtifactLost, ArtifactRefused) as error:
            self._lose(own.path, error.message)
            return []
        self._whole.add(digest)
        return [own, *await self._signatures(digest), *_blocks(manifest)]

    async def mend(self, item: _Object) -> None:
        """Check an object at all replicas that can be reached, and write it where it is amiss."""
        bad = [replica for replica in self._alive if not await self._is_good(replica, item)]
        self._result.checked += len(self._alive)
        if not bad:
            return
        try:
            content = await self._replicas.fetch(
                item.path, most=item.most, digest=item.digest, size=item.size
            )
        except ArtifactLost as error:
            self._lose(item.path, error.message)
            return
        for replica in bad:
            await self._write(replica, item.path, content)

    async def rename(self, named: names.Named) -> None:
        """Give a name to the replicas that lack it, or have it wrong: most decide what is right."""
        path = layout.ref(named.ref)
        self._result.checked += len(self._alive)
        whole = [a for a in named.addresses if digests.parse(a) in self._whole]
        if not whole:
            self._lose(path, "no artifact that it may stand for is there")
            return
        for replica in self._alive:
            if named.said.get(replica.name) != whole[0]:
                await self._write(replica, path, whole[0].encode())

    async def _is_good(self, replica: Replica, item: _Object) -> bool:
        try:
            if self._deep:
                await self._replicas.wait(item.size or 0)
                await replica.get(item.path, most=item.most, digest=item.digest, size=item.size)
                return True
            size = await replica.size(item.path)
            return size is not None and (item.size is None or size == item.size)
        except ReplicaFault as fault:
            self._replicas.note(fault)
            if fault.fault is not FaultKind.UNREACHABLE:
                return False
            self._leave(replica)  # nothing is known of what it has
            return True

    async def _write(self, replica: Replica, path: str, content: digests.Content) -> None:
        try:
            await self._replicas.wait(len(content))
            await replica.put(path, content, overwrite=True)
        except ReplicaFault as fault:
            self._replicas.note(fault)
            self._leave(replica)
            return
        self._result.repaired += 1
        log.info("repaired an object", replica=replica.name, path=path)

    async def _signatures(self, digest: str) -> list[_Object]:
        found: dict[str, _Object] = {}
        for replica in self._alive:
            try:
                async for kept in replica.listed(layout.signatures(digest)):
                    if (own := layout.digest_in(kept.path)) is not None:
                        found[kept.path] = _Object(kept.path, own, MAX_SIGNATURE)
            except ReplicaFault as fault:
                self._replicas.note(fault)
        return list(found.values())

    def _leave(self, replica: Replica) -> None:
        if replica.name not in self._result.away:
            self._result.away.append(replica.name)

    def _lose(self, path: str, why: str) -> None:
        log.error("no replica has it whole", path=path, why=why)
        if len(self._result.lost) < _NAMES:
            self._result.lost.append(path)


def _blocks(manifest: Manifest) -> Iterator[_Object]:
    for digest, size in manifest.blocks().items():
        yield _Object(layout.block(digest), digest, size, size)
