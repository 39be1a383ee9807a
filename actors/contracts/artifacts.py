"""The messages to another node's depot, for artifacts that lie whole in its cache.

Nothing in an answer is believed: who asks checks each byte against a digest that it has already.

Pure.
"""

from __future__ import annotations

from supervision.contracts.contract import Contract


class HaveArtifacts(Contract, frozen=True):
    """→ depot, asked: which of these do you lend? `artifacts` are digests of manifests, in
    hexadecimal digits. Answered with `ArtifactsHeld`."""

    artifacts: tuple[str, ...]


class ArtifactsHeld(Contract, frozen=True):
    """Those of the artifacts asked for that lie here whole, and may be loaded here."""

    artifacts: tuple[str, ...]


class ReadManifest(Contract, frozen=True):
    """→ depot, opens a stream of `Piece`: the manifest of an artifact. No piece is longer than
    `piece_bytes`."""

    artifact: str
    piece_bytes: int


class ReadSignatures(Contract, frozen=True):
    """→ depot, opens a stream of `Piece`: all signatures that an artifact came with, one after
    the other."""

    artifact: str
    piece_bytes: int


class ReadBlock(Contract, frozen=True):
    """→ depot, opens a stream of `Piece`: the block at `index` (from 0) of the file that the
    manifest calls `file`."""

    artifact: str
    file: str
    index: int
    piece_bytes: int


class Piece(Contract, frozen=True):
    """The next bytes; with `last`, the last ones of this block, manifest or signature."""

    content: bytes
    last: bool = False
