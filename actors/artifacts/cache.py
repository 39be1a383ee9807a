"""Artifacts on this machine's disk: shared by its processes, bounded, and sound after any kill.

::

    whole/<digest>/   verified, under its final name since its last byte was on disk
    part/<digest>/    on its way; what is right of it is not fetched again
    trash/            renamed away, to be removed
    pins/<digest>     never evicted
    locks/            all: the budget; fetch-<digest>: who fetches; use-<digest>: who uses

What is in use or pinned stays; of the rest the least recently used goes first.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.artifacts import digest as digests
from actors.artifacts import metrics
from actors.artifacts.entry import CacheEntry, Damaged, sync, sync_one
from actors.artifacts.locks import FileLock
from actors.artifacts.manifest import Manifest
from actors.errors import CacheFull
from supervision.telemetry import logs

log = logs.get(__name__)

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SPARE: Final = 16 << 20  # bytes of the disk left free, for everybody's small files


class Held:
    """An artifact in use: its folder stays until `release`, or until this process ends."""

    def __init__(self, entry: CacheEntry, manifest: Manifest, lock: FileLock) -> None:
        self.entry = entry
        self.manifest = manifest
        self._lock = lock

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.entry.files

    def release(self) -> None:
        """It may be evicted. Safe twice."""
        self._lock.release()


class Cache:
    """
    Args:
        root: its folder; made when it is first needed.
        budget: bytes of all models together.
    """

    def __init__(self, root: Path, budget: int) -> None:
        self.root = root
        self.budget = budget

    def using(self, digest: str) -> FileLock:
        """The lock that keeps an artifact from being evicted, held with others."""
        lock = FileLock(self.root / "locks" / f"use-{digest}")
        while not lock.try_shared():  # somebody evicts it, which is one rename
            time.sleep(0.01)
        return lock

    def fetching(self, digest: str) -> FileLock:
        """The lock of whoever brings an artifact in; not held yet."""
        return FileLock(self.root / "locks" / f"fetch-{digest}")

    def whole(self, digest: str) -> CacheEntry:
        return CacheEntry(self.root / "whole" / digest, digest)

    def part(self, digest: str) -> CacheEntry:
        return CacheEntry(self.root / "part" / digest, digest)

    def look(self, digest: str) -> Manifest | None:
        """The manifest of an artifact that is here and sound; None if it isn't here. One that is
        damaged is as good as absent, and is said so. Only with `using`.
        """
        entry = self.whole(digest)
        if not entry.path.is_dir():
            return None
        try:
            manifest = entry.manifest()
            if entry.check(manifest):
                metrics.artifact_cache.labels("checked").inc()
        except Damaged as damage:
            metrics.artifact_cache.labels("damaged").inc()
            log.error("a model in the cache is damaged", artifact=digest, why=str(damage))
            return None
        entry.touch()
        return manifest

    def begin(self, digest: str, manifest: Manifest, content: bytes) -> CacheEntry:
        """Room and a folder for an artifact to be brought in; only with `fetching`.

        Raises:
            CacheFull: what is in use and pinned leaves no room, or the disk has none.
        """
        part = self.part(digest)
        with self.full(digest), self._alone():
            self._discard(self.whole(digest).path)  # damaged, else nobody would fetch it
            self._make_room(digest, manifest.size, there=_on_disk(part.path))
            part.begin(manifest.size, content)
            metrics.artifact_cache_bytes.set(self._used())
        return part

    def finish(self, digest: str, manifest: Manifest) -> CacheEntry:
        """Put what was brought in, and verified, at its final place; only with `fetching`."""
        part, whole = self.part(digest), self.whole(digest)
        with self.full(digest):
            part.write_stamps(manifest)
            part.touch()
            sync(part.path)
            whole.path.parent.mkdir(exist_ok=True)
            part.path.rename(whole.path)
            for folder in (whole.path.parent, part.path.parent):
                sync_one(folder)
        return whole

    def drop(self, digest: str) -> None:
        """Forget what was brought in so far; only with `fetching`."""
        self._discard(self.part(digest).path)

    @contextmanager
    def full(self, digest: str) -> Iterator[None]:
        """Within, a disk that is full is a `CacheFull`, and costs this artifact's part only."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            metrics.artifact_cache.labels("full").inc()
            self.drop(digest)
            raise CacheFull(
                f"the disk of {self.root} is full, so {digests.address(digest)} can't be kept; "
                "free space, or lower [artifacts] cache_bytes"
            ) from error

    # ---- what operators ask for

    def entries(self) -> list[CacheEntry]:
        """All that are whole, the least recently used first."""
        found = [CacheEntry(path, path.name) for path in _folders(self.root / "whole")]
        return sorted(found, key=lambda entry: entry.used_at)

    def pin(self, digest: str) -> None:
        """Never evict it."""
        (self.root / "pins").mkdir(parents=True, exist_ok=True)
        (self.root / "pins" / digest).touch()

    def unpin(self, digest: str) -> None:
        """It may be evicted again. Safe twice."""
        (self.root / "pins" / digest).unlink(missing_ok=True)

    def is_pinned(self, digest: str) -> bool:
        return (self.root / "pins" / digest).exists()

    def evict(self, digest: str) -> bool:
        """Remove an artifact; False if it is in use, pinned, or not here."""
        with self._alone():
            return self._evict(self.whole(digest))

    def condemn(self, digest: str) -> None:
        """Remove an artifact that is damaged, also while somebody uses it: what is mapped stays
        mapped, and nobody else is given it."""
        with self._alone():
            self._discard(self.whole(digest).path)

    def sweep(self) -> None:
        """Remove what somebody who was killed had renamed away."""
        for path in _folders(self.root / "trash"):
            shutil.rmtree(path, ignore_errors=True)

    # ---- room; all with the lock of the budget

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with FileLock(self.root / "locks" / "all") as lock:
            lock.wait_exclusive()
            yield

    def _used(self) -> int:
        return sum(
            CacheEntry(path, path.name).size
            for kind in ("whole", "part")
            for path in _folders(self.root / kind)
        )

    def _make_room(self, digest: str, size: int, *, there: int) -> None:
        self.sweep()
        own = self.part(digest).size
        victims = self._victims(digest)
        while True:
            used = self._used() - own
            free = shutil.disk_usage(self.root).free
            if used + size <= self.budget and size - there + _SPARE <= free:
                return
            victim = next(victims, None)
            if victim is None:
                break
            if self._evict(victim):
                log.info("evicted a model from the cache", artifact=victim.digest)
        metrics.artifact_cache.labels("full").inc()
        if used + size > self.budget:
            why = f"{used} of {self.budget} are taken by models in use or pinned; unpin some, or"
        else:
            why = f"the disk has {free} free; free more, or"
        raise CacheFull(
            f"{digests.address(digest)} needs {size} bytes in {self.root}, and {why} "
            "change [artifacts] cache_bytes"
        )

    def _victims(self, digest: str) -> Iterator[CacheEntry]:
        parts = [CacheEntry(path, path.name) for path in _folders(self.root / "part")]
        for entry in sorted(parts, key=lambda entry: entry.used_at):
            if entry.digest != digest:
                yield entry
        yield from self.entries()

    def _evict(self, entry: CacheEntry) -> bool:
        is_part = entry.path.parent.name == "part"
        if not entry.path.is_dir() or (self.is_pinned(entry.digest) and not is_part):
            return False
        kind = "fetch" if is_part else "use"
        with FileLock(self.root / "locks" / f"{kind}-{entry.digest}") as lock:
            if not lock.try_exclusive():
                return False
            self._discard(entry.path)
            lock.remove()
        metrics.artifact_cache.labels("evicted").inc()
        return True

    def _discard(self, path: Path) -> None:
        if not path.exists():
            return
        away = self.root / "trash" / f"{path.name}-{os.getpid()}-{time.monotonic_ns()}"
        away.parent.mkdir(parents=True, exist_ok=True)
        path.rename(away)  # at once, so that nobody finds half of it
        shutil.rmtree(away, ignore_errors=True)


def _folders(path: Path) -> list[Path]:
    try:
        return [child for child in path.iterdir() if child.is_dir()]
    except FileNotFoundError:
        return []


def _on_disk(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
