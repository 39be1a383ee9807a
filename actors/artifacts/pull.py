"""A pull: an artifact from replicas and peers into the cache, and out of it, verified both times.

The order is what makes it safe: manifest by its digest, signature over the manifest, blocks by
theirs, then the files as they lie on disk, then the final name. Whatever fails leaves nothing
that anybody would take for whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from actors.artifacts import digest as digests
from actors.artifacts import folder, metrics
from actors.artifacts.cache import Cache, Held
from actors.artifacts.crew import each, in_thread
from actors.artifacts.entry import CacheEntry, Damaged, verify_file
from actors.artifacts.locks import FileLock
from actors.artifacts.manifest import BLOCK, File, Manifest, encode
from actors.artifacts.peers import Peers
from actors.artifacts.replicas import Replicas
from actors.artifacts.sources import Sources
from actors.artifacts.trust import Trust
from actors.errors import ArtifactRefused
from supervision.errors import Unavailable
from supervision.telemetry import logs

log = logs.get(__name__)

Progress = Callable[[str, float], None]  # what, fraction from 0 to 1
WAIT_S: Final = 3600.0  # for another process that fetches the same
_POLL_S: Final = 0.2
_READERS: Final = 4  # files hashed at once


class Pull:
    """
    Args:
        cache: where models are kept.
        replicas: where they come from; None: only what is in the cache.
        trust: whose signatures count; None: trust is off, which is said loudly each time.
        now: the time of day, with a zone.
        peers: other nodes that it may come from as well; who made them closes them.
    """

    def __init__(
        self,
        cache: Cache,
        replicas: Replicas | None,
        trust: Trust | None,
        now: Callable[[], datetime],
        peers: Peers | None = None,
    ) -> None:
        self._cache = cache
        self._replicas = replicas
        self._peers = peers
        self._trust = trust
        self._now = now

    async def obtain(self, digest: str, progress: Progress | None = None) -> Held:
        """The artifact, in the cache, verified and held. Fetched only by one process at a time.

        Raises:
            ArtifactRefused: it is not signed as it must be, or not what it says.
            ArtifactLost: nobody has it, or can't be reached.
            CacheFull: there is no room for it.
        """
        told = progress or (lambda what, fraction: None)
        using = await in_thread(self._cache.using, digest)
        try:
            manifest = await in_thread(self._cache.look, digest)
            metrics.artifact_cache.labels("hit" if manifest else "miss").inc()
            if manifest is None:
                manifest = await self._brought(digest, told)
            else:
                await self._judge(digest, manifest, self._cache.whole(digest))
            return Held(self._cache.whole(digest), manifest, using)
        except BaseException:
            using.release()
            raise

    async def _brought(self, digest: str, told: Progress) -> Manifest:
        if self._replicas is None:
            raise Unavailable(f"{digests.address(digest)} is not in the cache, or is damaged there")
        with self._cache.fetching(digest) as lock:
            await _locked(lock, told)
            manifest = await in_thread(self._cache.look, digest)
            if manifest is not None:  # another process has done it meanwhile
                await self._judge(digest, manifest, self._cache.whole(digest))
                return manifest
            sources = Sources(digest, self._replicas, self._peers)
            manifest = await sources.manifest()
            bundles = await self._signed(digest, manifest, sources)
            content = encode(manifest)
            part = await in_thread(self._cache.begin, digest, manifest, content)
            with self._cache.full(digest):
                await self._fill(manifest, part, sources, told)
            try:
                await in_thread(folder.inspect, part.files, [f.name for f in manifest.files])
                await _verified(manifest, part)
            except (ArtifactRefused, Damaged) as error:
                # Each block was right when it came: it was made this way, or the disk is bad.
                self._cache.drop(digest)
                metrics.artifact_refused.labels("content").inc()
                raise ArtifactRefused(f"{digests.address(digest)} is refused: {error}") from None
            with self._cache.full(digest):
                for bundle in bundles:
                    part.add_signature(bundle)
            await in_thread(self._cache.finish, digest, manifest)
            told("verified", 1.0)
            return manifest

    # ---- signatures

    async def _judge(self, digest: str, manifest: Manifest, entry: CacheEntry) -> None:
        """What lies in the cache may have been signed anew, or revoked, since it came."""
        if self._trust is None:
            _loudly(digest)
            return
        address = digests.address(digest)
        try:
            self._trust.check(address, manifest, entry.signatures(), self._now())
        except ArtifactRefused:
            if self._replicas is None:
                metrics.artifact_refused.labels("signature").inc()
                raise
            sources = Sources(digest, self._replicas, self._peers)
            for bundle in await self._signed(digest, manifest, sources):
                with suppress(OSError):  # a full disk: it is fetched again the next time
                    entry.add_signature(bundle)

    async def _signed(self, digest: str, manifest: Manifest, sources: Sources) -> list[bytes]:
        """Signatures of the sources, of which the last counts; none are needed without trust."""
        if self._trust is None:
            _loudly(digest)
            return []
        address = digests.address(digest)
        bundles: list[bytes] = []
        async with aclosing(sources.signatures()) as found:
            async for content in found:
                bundles.append(content)
                try:
                    self._trust.check(address, manifest, [content], self._now())
                except ArtifactRefused:
                    continue
                return bundles
        try:
            self._trust.check(address, manifest, bundles, self._now())
        except ArtifactRefused:
            metrics.artifact_refused.labels("signature").inc()
            raise
        return bundles

    # ---- blocks

    async def _fill(
        self, manifest: Manifest, part: CacheEntry, sources: Sources, told: Progress
    ) -> None:
        done = 0
        whole = manifest.size
        is_new = not any(part.files.iterdir())
        descriptors = await in_thread(_opened, part.files, manifest)

        async def bring(block: tuple[File, int]) -> None:
            nonlocal done
            file, index = block
            size, digest = file.block_size(index), file.blocks[index]
            descriptor = descriptors[file.name]
            there = not is_new and await in_thread(is_there, descriptor, index, size, digest)
            if not there:
                content = await sources.block(file, index)
                await in_thread(write_at, descriptor, content, index)
            done += size
            told("fetching", done / whole)

        try:
            await each(_blocks(manifest), bring, parallel=sources.parallel)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)


async def _locked(lock: FileLock, told: Progress) -> None:
    """
    Raises:
        Unavailable: another process has had it for too long.
    """
    until = asyncio.get_running_loop().time() + WAIT_S
    while not lock.try_exclusive():
        if asyncio.get_running_loop().time() > until:
            raise Unavailable(f"another process has fetched it for {WAIT_S:.0f} s; end it")
        told("waiting for another process that fetches it", 0.0)
        await asyncio.sleep(_POLL_S)


def _blocks(manifest: Manifest) -> Iterator[tuple[File, int]]:
    for file in manifest.files:
        for index in range(len(file.blocks)):
            yield file, index


def _opened(files: Path, manifest: Manifest) -> dict[str, int]:
    """A descriptor per file, of its final length."""
    found: dict[str, int] = {}
    try:
        for file in manifest.files:
            path = files / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            found[file.name] = os.open(path, how, 0o644)
            os.ftruncate(found[file.name], file.size)
    except BaseException:
        for descriptor in found.values():
            os.close(descriptor)
        raise
    return found


def is_there(descriptor: int, index: int, size: int, digest: str) -> bool:
    """Was this block written before a kill?"""
    return digests.of(os.pread(descriptor, size, index * BLOCK)) == digest


def write_at(descriptor: int, content: digests.Content, index: int) -> None:
    """Write all of a block."""
    view = memoryview(content)
    offset = index * BLOCK
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


async def _verified(manifest: Manifest, part: CacheEntry) -> None:
    """
    Raises:
        Damaged: a file, as it can be read now, has another digest than the manifest says.
    """

    async def read(file: File) -> None:
        await in_thread(verify_file, part.files / file.name, file)

    await each(iter(manifest.files), read, parallel=_READERS)


def _loudly(digest: str) -> None:
    metrics.artifact_untrusted.inc()
    log.warning(
        'trust = "off": nobody vouches for this model, and it is loaded all the same',
        artifact=digests.address(digest),
    )
