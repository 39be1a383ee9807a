"""The artifacts that this node serves to others: whole in its cache, and such as it would load.

An artifact is opened with the first request for it, and stays held against eviction for a while
after the last one. Nothing is verified for the other: it verifies what it gets. But a file that was
written to since it was verified, and what this node's trust store refuses, are not lent.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from actors.artifacts import digest as digests
from actors.artifacts.cache import Cache
from actors.artifacts.crew import in_thread
from actors.artifacts.entry import CacheEntry, Damaged, Stamp, stamp_of
from actors.artifacts.folder import open_plain
from actors.artifacts.locks import FileLock
from actors.artifacts.manifest import BLOCK, Manifest
from actors.artifacts.trust import Trust
from actors.errors import ArtifactLost, ArtifactRefused
from supervision.errors import BadRequest, Overloaded
from supervision.telemetry import bounds, logs

log = logs.get(__name__)

MAX_SIGNATURES: Final = 64  # of one artifact that are lent
_held = bounds.used.labels("lent_artifacts")
_refused = bounds.refused.labels("lent_artifacts")


class FilePart:
    """Some of a file, from `begin` on; without a size, all of it."""

    def __init__(
        self, path: Path, begin: int = 0, size: int = -1, stamp: Stamp | None = None
    ) -> None:
        self.begin = begin
        self.size = size
        self._path = path
        self._stamp = stamp
        self._descriptor = -1

    def open(self) -> None:
        """Its size is known then. Blocks.

        Raises:
            ArtifactRefused: the file can't be read, or was written to since it was verified.
        """
        self._descriptor = open_plain(self._path)
        found = os.fstat(self._descriptor)
        if self._stamp is not None and stamp_of(found) != self._stamp:
            raise ArtifactRefused(f"{self._path.name} was changed here since it was verified")
        if self.size < 0:
            self.size = found.st_size

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes from `at`, counted from its begin. Blocks.

        Raises:
            ArtifactRefused: the file is shorter now.
        """
        content = os.pread(self._descriptor, size, self.begin + at)
        if len(content) != size:
            raise ArtifactRefused(f"{self._path.name} was cut off here since it was verified")
        return content

    def close(self) -> None:
        """Safe twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Lent:
    """An artifact that is held for others to read."""

    def __init__(self, entry: CacheEntry, manifest: Manifest, lock: FileLock) -> None:
        self.entry = entry
        self.readers = 0
        self.idle_since = 0.0
        self.judged_at = 0.0
        self._manifest = manifest
        self._lock = lock
        self._stamps: dict[str, Stamp] = {}
        self._files = {file.name: file for file in manifest.files}

    def judge(self, trust: Trust | None, now: datetime) -> None:
        """May it be lent, now? Reads no weights; blocks.

        Raises:
            ArtifactRefused: it was changed, or must not be loaded.
        """
        address = digests.address(self.entry.digest)
        try:
            self._stamps = self.entry.unchanged(self._manifest)
            if trust is not None:
                trust.check(address, self._manifest, self.entry.signatures(), now)
        except (Damaged, OSError) as error:
            raise ArtifactRefused(f"{address} is not lent: {error}") from None

    def manifest(self) -> list[FilePart]:
        """What to read for the manifest."""
        return [FilePart(self.entry.path / "manifest.json")]

    def signatures(self) -> list[FilePart]:
        """What to read for each signature that it came with; blocks."""
        paths = sorted((self.entry.path / "signatures").glob("*.json"))
        return [FilePart(path) for path in paths[:MAX_SIGNATURES]]

    def block(self, name: str, index: int) -> list[FilePart]:
        """What to read for a block. A name is looked up in the manifest, and is no path.

        Raises:
            BadRequest: there is no such file or block.
        """
        file = self._files.get(name)
        address = digests.address(self.entry.digest)
        if file is None:
            raise BadRequest(f"{address} has no file {name[:100]!r}")
        if not 0 <= index < len(file.blocks):
            raise BadRequest(f"{name} of {address} has {len(file.blocks)} blocks, none is {index}")
        path = self.entry.files / name
        return [FilePart(path, index * BLOCK, file.block_size(index), self._stamps[name])]

    def release(self) -> None:
        """It may be evicted."""
        self._lock.release()


class SharedArtifacts:
    """
    Args:
        cache: what can be lent.
        trust: whose signatures count, read anew; None if trust is off. Blocks.
        now: the time of day, with a zone.
        most: artifacts that are held at once.
        idle_s: for how long one is held after its last reader.
        judge_s: how long it may be lent without another look at it and at the trust store.
    """

    def __init__(
        self,
        cache: Cache,
        trust: Callable[[], Trust | None],
        now: Callable[[], datetime],
        *,
        most: int = 16,
        idle_s: float = 30.0,
        judge_s: float = 5.0,
    ) -> None:
        self._cache = cache
        self._trust = trust
        self._now = now
        self._most = most
        self._idle_s = idle_s
        self._judge_s = judge_s
        self._out: dict[str, Lent] = {}
        self._turn = asyncio.Lock()  # who looks at an artifact does it for all that want it
        self._looking: set[asyncio.Task[Lent]] = set()  # as many as wait for it, at most
        self._told: set[str] = set()  # which refusals were logged already

    async def take(self, digest: str) -> Lent:
        """An artifact to read from, until `give_back`.

        Raises:
            BadRequest: `digest` is none.
            ArtifactLost: it isn't here.
            ArtifactRefused: it was changed, or must not be loaded.
            Overloaded: too many others are lent.
        """
        if not re.match(digests.HEX, digest):
            raise BadRequest(f"{digest[:100]!r} is no digest")
        now = asyncio.get_running_loop().time()
        lent = self._out.get(digest)
        if lent is None or now - lent.judged_at >= self._judge_s:
            # A task of its own: what it opens must not be lost with whoever waits no longer.
            looking = asyncio.create_task(self._judged(digest))
            self._looking.add(looking)
            looking.add_done_callback(self._looked)
            lent = await asyncio.shield(looking)
        lent.readers += 1
        return lent

    def give_back(self, lent: Lent) -> None:
        lent.readers -= 1
        lent.idle_since = asyncio.get_running_loop().time()

    def tidy(self) -> None:
        """Let go of what nobody has read for a while."""
        now = asyncio.get_running_loop().time()
        for lent in list(self._out.values()):
            if not lent.readers and now - lent.idle_since > self._idle_s:
                self._put_away(lent)

    def close(self) -> None:
        """Let go of all."""
        for lent in list(self._out.values()):
            self._put_away(lent)

    def _looked(self, looking: asyncio.Task[Lent]) -> None:
        self._looking.discard(looking)
        if not looking.cancelled():
            looking.exception()  # perhaps nobody waits for it

    async def _judged(self, digest: str) -> Lent:
        async with self._turn:
            return await self._judged_alone(digest)

    async def _judged_alone(self, digest: str) -> Lent:
        clock = asyncio.get_running_loop().time
        lent = self._out.get(digest)
        if lent is not None and clock() - lent.judged_at < self._judge_s:
            return lent  # somebody else has waited for it
        try:
            if lent is None:
                self._make_room()
                lent = await in_thread(self._open, digest)
                self._out[digest] = lent
            else:
                await in_thread(self._judge, lent)
        except ArtifactRefused as error:
            if lent is not None:
                self._put_away(lent)  # whoever reads it has its file open, and may end
            self._say(digest, error)
            raise
        lent.judged_at = lent.idle_since = clock()
        self._told.discard(digest)
        _held.set(len(self._out))
        return lent

    def _open(self, digest: str) -> Lent:
        entry = self._cache.whole(digest)
        gone = ArtifactLost(f"{digests.address(digest)} is not whole in the cache here")
        if not entry.path.is_dir():  # a lock would leave a file for each digest that is asked for
            raise gone
        lock = self._cache.using(digest)
        try:
            if not entry.path.is_dir():
                raise gone
            lent = Lent(entry, entry.manifest(), lock)
            self._judge(lent)
        except Damaged as damage:
            lock.release()
            address = digests.address(digest)
            raise ArtifactRefused(f"{address} is not lent: {damage}") from None
        except BaseException:
            lock.release()
            raise
        return lent

    def _judge(self, lent: Lent) -> None:
        lent.judge(self._trust(), self._now())

    def _make_room(self) -> None:
        if len(self._out) < self._most:
            return
        idle = [lent for lent in self._out.values() if not lent.readers]
        if not idle:
            _refused.inc()
            raise Overloaded(f"{len(self._out)} artifacts are lent already", retry_after_s=1.0)
        self._put_away(min(idle, key=lambda lent: lent.idle_since))

    def _put_away(self, lent: Lent) -> None:
        if self._out.get(lent.entry.digest) is lent:
            del self._out[lent.entry.digest]
        lent.release()
        _held.set(len(self._out))

    def _say(self, digest: str, error: ArtifactRefused) -> None:
        if digest not in self._told and len(self._told) < 1000:
            self._told.add(digest)
            log.warning("an artifact is not lent", artifact=digest, why=error.message)
