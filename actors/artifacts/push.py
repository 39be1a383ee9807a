"""A push of a folder to all replicas: blocks first, then what names them, the name last.

Nothing refers to what isn't there yet, so a push that breaks off leaves no artifact that is half
there; the next one sends what is missing. A replica that fails is left out, and reported; when
fewer than the quorum are left, the push has failed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts import layout
from actors.artifacts.condemned import condemned
from actors.artifacts.crew import each, in_thread
from actors.artifacts.folder import open_plain
from actors.artifacts.manifest import BLOCK, Manifest, encode
from actors.artifacts.replica import FaultKind, Replica, ReplicaFault
from actors.artifacts.replicas import Replicas
from actors.errors import ArtifactLost, ArtifactRefused
from supervision.errors import BadRequest, Conflict
from supervision.telemetry import logs

log = logs.get(__name__)

ATTEMPTS: Final = 3  # per object and replica
PAUSE_S: Final = 0.3
_MAX_REF: Final = 1024
_Told = Callable[[int], None]


class Pushed(msgspec.Struct, frozen=True):
    """What a push did. `left_out` says why of each replica that has not got all."""

    address: str
    acknowledged: tuple[str, ...]
    left_out: dict[str, str]
    sent: int  # blocks, over all replicas
    there: int  # blocks that were there already, likewise


class Push:
    """
    Args:
        replicas: where to.
        min_replicas: fewer than so many are refused.
        quorum: so many must have all of it.
    """

    def __init__(self, replicas: Replicas, *, min_replicas: int = 3, quorum: int = 2) -> None:
        if len(replicas.all) < min_replicas:
            raise BadRequest(
                f"a model is kept at {min_replicas} replicas at least, and {len(replicas.all)} are "
                "listed; add some to [artifacts] replicas, or lower min_replicas"
            )
        self._replicas = replicas
        self._quorum = quorum
        self._alive: set[Replica] = set()
        self._condemned: dict[Replica, frozenset[str]] = {}  # by collections
        self._rescued = False
        self._left_out: dict[str, str] = {}
        self._sent = 0
        self._there = 0

    async def push(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        ref: str,
        signatures: Iterable[bytes] = (),
        told: _Told | None = None,
    ) -> Pushed:
        """Send `folder`, whose manifest this is, and name it `ref` (`name@version`). `told` hears
        of every byte that is settled.

        Raises:
            ArtifactLost: fewer than the quorum have it now.
            ArtifactRefused: the folder has changed meanwhile.
            BadRequest: `ref` is no such name.
            Conflict: the name is taken by another artifact.
        """
        content = encode(manifest)
        digest = digests.of(content)
        address = digests.address(digest)
        name = layout.ref(ref)
        bundles = tuple(signatures)
        await self._everywhere(self._reach)
        await self._unclaimed(name, ref, digest)
        descriptors: dict[str, int] = {}
        try:
            for file in manifest.files:
                descriptors[file.name] = open_plain(folder / file.name)
            await self._all(manifest, content, descriptors, bundles, told)
            await self._everywhere(lambda r: self._name(r, name, ref, address))
            if self._rescued:
                # A collection may have been about to remove what was sent once more, between its
                # last look and its act. Now there is a name: what is gone is sent for good.
                self._condemned = {}
                await self._all(manifest, content, descriptors, bundles, None)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        names = tuple(replica.name for replica in self._replicas.all if replica in self._alive)
        return Pushed(address, names, self._left_out, self._sent, self._there)

    async def sign(self, digest: str, bundle: bytes) -> tuple[str, ...]:
        """Add a signature to an artifact; the replicas that have it now.

        Raises:
            ArtifactLost: fewer than the quorum have it.
        """
        await self._everywhere(self._reach)
        await self._signature(digest, bundle)
        return tuple(replica.name for replica in self._alive)

    # ---- one replica

    async def _reach(self, replica: Replica) -> None:
        self._condemned[replica] = frozenset((await condemned(replica)).since)
        self._alive.add(replica)

    async def _put(self, replica: Replica, path: str, content: digests.Content) -> bool:
        """True if it was sent; what is there already, whole and to stay, is not."""
        size = await replica.size(path)
        if size == len(content) and not self._is_condemned(replica, path):
            return False
        await self._replicas.wait(len(content))
        return await replica.put(path, content, overwrite=size is not None)

    def _is_condemned(self, replica: Replica, path: str) -> bool:
        if path not in self._condemned.get(replica, ()):
            return False
        self._rescued = True
        return True

    async def _name(self, replica: Replica, path: str, ref: str, address: str) -> None:
        if not await replica.put(path, address.encode()):
            await self._same(replica, path, ref, address)

    async def _same(self, replica: Replica, path: str, ref: str, address: str) -> None:
        found = bytes(await replica.get(path, most=_MAX_REF)).decode(errors="replace")
        if found != address:
            raise Conflict(
                f"{ref} is {found} at {replica.name}; a version is never changed, take another"
            )

    # ---- all of them

    async def _all(
        self,
        manifest: Manifest,
        content: bytes,
        descriptors: dict[str, int],
        bundles: Iterable[bytes],
        told: _Told | None,
    ) -> None:
        async def settle(block: tuple[str, int, int, str]) -> None:
            await self._block(descriptors[block[0]], *block)
            if told is not None:
                told(block[2])

        digest = digests.of(content)
        await each(_blocks(manifest), settle, parallel=self._replicas.parallel)
        for bundle in bundles:
            await self._signature(digest, bundle)
        await self._everywhere(lambda r: self._put(r, layout.manifest(digest), content))

    async def _signature(self, digest: str, bundle: bytes) -> None:
        path = layout.signature(digest, digests.of(bundle))
        await self._everywhere(lambda r: self._put(r, path, bundle))

    async def _unclaimed(self, path: str, ref: str, digest: str) -> None:
        async def look(replica: Replica) -> None:
            if await replica.size(path) is not None:
                await self._same(replica, path, ref, digests.address(digest))

        await self._everywhere(look)

    async def _block(self, descriptor: int, name: str, index: int, size: int, digest: str) -> None:
        path = layout.block(digest)
        lacking: list[Replica] = []

        async def look(replica: Replica) -> None:
            if await replica.size(path) != size or self._is_condemned(replica, path):
                lacking.append(replica)
            else:
                self._there += 1

        await self._everywhere(look)
        if not lacking:
            return
        content = await in_thread(os.pread, descriptor, size, index * BLOCK)
        if await in_thread(digests.of, content) != digest:
            raise ArtifactRefused(f"{name} has changed while it was pushed; push it again")

        async def send(replica: Replica) -> None:
            was_sent = await self._put(replica, path, content)
            self._sent += was_sent

        await self._everywhere(send, only=lacking)

    async def _everywhere(
        self,
        work: Callable[[Replica], Awaitable[object]],
        *,
        only: Iterable[Replica] | None = None,
    ) -> None:
        first = not self._alive and not self._left_out
        targets = self._replicas.all if first else tuple(self._alive if only is None else only)
        if targets:
            await each(iter(targets), lambda r: self._patiently(r, work), parallel=len(targets))
        if len(self._alive) < self._quorum:
            told = "; ".join(self._left_out.values())
            raise ArtifactLost(
                f"{len(self._alive)} of {len(self._replicas.all)} replicas have it, and "
                f"{self._quorum} must: {told}"
            )

    async def _patiently(
        self, replica: Replica, work: Callable[[Replica], Awaitable[object]]
    ) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if replica.name in self._left_out:
                return
            try:
                await work(replica)
                return
            except ReplicaFault as fault:
                if attempt == ATTEMPTS or fault.fault is not FaultKind.UNREACHABLE:
                    self._alive.discard(replica)
                    self._left_out.setdefault(replica.name, fault.message)
                    log.warning("a replica is left out", replica=replica.name, why=fault.message)
                    return
                await asyncio.sleep(PAUSE_S * 2.0 ** (attempt - 1))


def _blocks(manifest: Manifest) -> Iterator[tuple[str, int, int, str]]:
    seen: set[str] = set()
    for file in manifest.files:
        for index, digest in enumerate(file.blocks):
            if digest not in seen:
                seen.add(digest)
                yield file.name, index, file.block_size(index), digest
