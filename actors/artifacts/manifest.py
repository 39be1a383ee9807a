"""The manifest of an artifact: its files and their blocks. Its digest is the artifact's address.

The bytes are canonical: one text only stands for a manifest, so that its digest does as well.
A block of 8 MiB is the unit of transfer, of verification and of storage; equal blocks of all
artifacts are one object.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from actors.artifacts import digest, filename
from actors.artifacts.digest import Hex
from actors.errors import ArtifactRefused
from supervision.unreadable import UNREADABLE

BLOCK: Final = 8 << 20  # bytes
MAX_FILES: Final = 4096
MAX_BYTES: Final = 1 << 43  # of an artifact: 8 TiB
MAX_MANIFEST: Final = 256 << 20  # bytes of JSON; 8 TiB have a million blocks, of 67 each


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file: `name` is relative to the artifact's folder, `blocks` are the digests of its parts
    of 8 MiB, of which the last may be shorter."""

    name: str
    size: Annotated[int, Meta(ge=1, le=MAX_BYTES)]
    media_type: str
    sha256: Hex
    blocks: tuple[Hex, ...]

    def block_size(self, index: int) -> int:
        """Bytes of the block at `index`."""
        return min(BLOCK, self.size - index * BLOCK)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files of an artifact, sorted by name."""

    schema: Literal["tether/artifact/1"]
    block_bytes: Literal[8388608]
    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=MAX_FILES)]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def blocks(self) -> dict[str, int]:
        """Size by digest: a block that occurs twice is one."""
        return {
            block: file.block_size(index)
            for file in self.files
            for index, block in enumerate(file.blocks)
        }


def make(files: list[File]) -> Manifest:
    """The manifest of `files`, in any order.

    Raises:
        ArtifactRefused: they can't be an artifact.
    """
    ordered = tuple(sorted(files, key=lambda file: file.name))
    manifest = Manifest("tether/artifact/1", BLOCK, ordered)
    _judge(manifest)
    return manifest


def encode(manifest: Manifest) -> bytes:
    """The canonical JSON: fields in the order of the types above, no spaces."""
    return msgspec.json.encode(manifest)


def decode(content: digest.Content, wanted: str) -> Manifest:
    """The manifest whose digest is `wanted`.

    Raises:
        ArtifactRefused: these bytes are another one, or none that is safe to unpack.
    """
    if len(content) > MAX_MANIFEST:
        raise ArtifactRefused(f"a manifest of {len(content)} bytes is too long")
    if digest.of(content) != wanted:
        raise ArtifactRefused(f"these are not the bytes of the manifest {digest.address(wanted)}")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except UNREADABLE as error:
        raise ArtifactRefused(f"{digest.address(wanted)} is no manifest: {error}") from None
    _judge(manifest)
    if encode(manifest) != bytes(content):
        raise ArtifactRefused(f"the manifest {digest.address(wanted)} is not canonical JSON")
    return manifest


def _judge(manifest: Manifest) -> None:
    for wrong in _faults(manifest):
        raise ArtifactRefused(wrong)


def _faults(manifest: Manifest) -> Iterator[str]:
    if not manifest.files:
        yield "an artifact without files is of no use"
    if len(manifest.files) > MAX_FILES:
        yield f"an artifact has at most {MAX_FILES} files, and this has {len(manifest.files)}"
    if manifest.size > MAX_BYTES:
        yield f"an artifact has at most {MAX_BYTES} bytes, and this has {manifest.size}"
    names = [file.name for file in manifest.files]
    if names != sorted(names):
        yield "the files of a manifest must be sorted by name"
    for file in manifest.files:
        if reason := filename.fault(file.name):
            yield f"{file.name!r} {reason}"
            continue
        if file.media_type != filename.media_type(file.name):
            yield f"{file.name} has the media type {file.media_type!r}"
        if not 1 <= file.size <= MAX_BYTES:
            yield f"{file.name} has {file.size} bytes"
        elif len(file.blocks) != -(-file.size // BLOCK):
            yield f"{file.name} has {file.size} bytes in {len(file.blocks)} blocks"
    if reason := filename.clash(names):
        yield reason
    sizes: dict[str, int] = {}
    for file in manifest.files:
        for index, block in enumerate(file.blocks):
            size = file.block_size(index)
            if sizes.setdefault(block, size) != size:
                yield f"a block of {file.name} has two sizes"
