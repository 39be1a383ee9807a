"""One artifact on disk: its files, and how they were when they were last verified.

::

    <digest>/size             bytes of all files; what it counts for in the budget
    <digest>/manifest.json
    <digest>/signatures/…     those that it came with
    <digest>/files/…          the folder that an engine is given
    <digest>/stamps.json      size, times and inode of each file when its digest was right
    <digest>/used             its time is that of the last use

A file whose stamp is unchanged is not read again: its time of change is set by the kernel, with
every write. One that differs is verified before it is handed out.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts.folder import Told, listed, open_plain, read_block
from actors.artifacts.manifest import BLOCK, File, Manifest, decode
from actors.errors import ArtifactRefused
from supervision.security import files as disk
from supervision.unreadable import UNREADABLE

Stamp = tuple[int, int, int, int]
_STAMPS: Final = "stamps.json"


class Damaged(Exception):
    """What is on disk is not what it should be; the sentence says where."""


class CacheEntry:
    """The artifact `digest` in the folder `path`, whole or on its way."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self.digest = digest
        self.files = path / "files"

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        try:
            return int((self.path / "size").read_text())
        except (OSError, ValueError):
            return 0

    @property
    def used_at(self) -> float:
        """When it was last used, by the clock of the file system."""
        for path in (self.path / "used", self.path):
            try:
                return path.stat().st_mtime
            except OSError:
                continue
        return 0.0

    def touch(self) -> None:
        """It is used now."""
        try:
            (self.path / "used").touch()
        except OSError:  # a full disk forgets the order of use, no more
            return

    def begin(self, size: int, manifest: bytes) -> None:
        """Make the folder of an artifact that is on its way. Safe twice."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.size != size:
            disk.write(self.path / "size", str(size).encode())
        if not (self.path / "manifest.json").is_file():
            disk.write(self.path / "manifest.json", manifest)
        self.files.mkdir(exist_ok=True)

    def manifest(self) -> Manifest:
        """
        Raises:
            Damaged: it can't be read, or is another one.
        """
        try:
            return decode((self.path / "manifest.json").read_bytes(), self.digest)
        except (OSError, ArtifactRefused) as error:
            raise Damaged(str(error)) from None

    def signatures(self) -> list[bytes]:
        """Those that it came with, as far as they are what their names say."""
        found = []
        for path in sorted((self.path / "signatures").glob("*.json")):
            content = path.read_bytes()
            if digests.of(content) == path.stem:
                found.append(content)
        return found

    def add_signature(self, content: bytes) -> None:
        """Keep a signature with it."""
        folder = self.path / "signatures"
        folder.mkdir(exist_ok=True)
        path = folder / f"{digests.of(content)}.json"
        if not path.is_file():
            disk.write(path, content)

    def check(self, manifest: Manifest, *, deep: bool = False, told: Told | None = None) -> int:
        """That the folder holds what `manifest` says, and nothing else; how many files had to be
        read for that: all of them if `deep`, else those whose stamp has changed.

        Raises:
            Damaged: it does not.
        """
        try:
            names = set(listed(self.files))
        except (OSError, ArtifactRefused) as error:
            raise Damaged(str(error)) from None
        wanted = {file.name for file in manifest.files}
        for name in sorted(names ^ wanted):
            where = self.files / name
            raise Damaged(f"{where} is missing" if name in wanted else f"{where} is not its own")
        known = {} if deep else self._stamps()
        read = 0
        for file in manifest.files:
            if known.get(file.name) != stamp(self.files / file.name):
                verify_file(self.files / file.name, file, told)
                read += 1
            elif told is not None:
                told(file.size)
        if read:
            with suppress(OSError):  # a full disk: they are read again the next time
                self.write_stamps(manifest)
        return read

    def unchanged(self, manifest: Manifest) -> dict[str, Stamp]:
        """How each file was when it was verified, if all of them still are so. Reads none.

        Raises:
            Damaged: one has changed since, or nobody has verified it.
        """
        known = self._stamps()
        for file in manifest.files:
            if known.get(file.name) != stamp(self.files / file.name):
                raise Damaged(f"{self.files / file.name} was changed since it was verified")
        return known

    def write_stamps(self, manifest: Manifest) -> None:
        """Remember how the files are; only right after they were verified."""
        stamps = {file.name: stamp(self.files / file.name) for file in manifest.files}
        disk.write(self.path / _STAMPS, msgspec.json.encode(stamps))

    def _stamps(self) -> dict[str, Stamp]:
        try:
            content = (self.path / _STAMPS).read_bytes()
            return msgspec.json.decode(content, type=dict[str, Stamp])
        except (OSError, *UNREADABLE):
            return {}


def stamp(path: Path) -> Stamp:
    """What changes when somebody writes to the file.

    Raises:
        Damaged: it is gone.
    """
    try:
        found = path.stat(follow_symlinks=False)
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    return stamp_of(found)


def stamp_of(found: os.stat_result) -> Stamp:
    """The same of a file that is open."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def verify_file(path: Path, file: File, told: Told | None = None) -> None:
    """That the file has its digest. Its blocks are looked at only to say where it has not.

    Raises:
        Damaged: it has another; the sentence names the block.
    """
    try:
        descriptor = open_plain(path)
    except ArtifactRefused as error:
        raise Damaged(str(error)) from None
    with os.fdopen(descriptor, "rb", buffering=0):
        size = os.fstat(descriptor).st_size
        if size != file.size:
            raise Damaged(f"{path} should have {file.size} bytes and has {size}")
        whole = hashlib.sha256()
        buffer = bytearray(min(BLOCK, size))
        while read := read_block(descriptor, buffer):
            whole.update(memoryview(buffer)[:read])
            if told is not None:
                told(read)
        if whole.hexdigest() == file.sha256:
            return
        os.lseek(descriptor, 0, os.SEEK_SET)
        for index, block in enumerate(file.blocks):
            read = read_block(descriptor, buffer)
            if digests.of(memoryview(buffer)[:read]) != block:
                raise Damaged(f"{path} was changed: block {index} has another digest")
    raise Damaged(f"{path} was changed: its digest is another than that of its blocks")


def sync(folder: Path) -> None:
    """On disk, the files and the names of them, before anybody is told that they are."""
    pending = [folder]
    while pending:
        current = pending.pop()
        with os.scandir(current) as found:
            entries = list(found)
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                pending.append(Path(each.path))
            else:
                sync_one(Path(each.path))
        sync_one(current)


def sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
