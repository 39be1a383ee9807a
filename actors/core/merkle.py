"""Merkle trees over the entries of a block: a root, and the path of one leaf to it. Pure.

A leaf is hashed behind a byte 0 and a node behind a byte 1, so neither can pass for the other; a
tree of n leaves has the largest power of two below n on its left. Source: RFC 6962, section 2.1,
which certificate transparency uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

HASH_BYTES: Final = 32
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


class MerkleStep(NamedTuple):
    """On the way from a leaf to the root: the hash of the neighbour, and on which side it is."""

    side: Literal["left", "right"]
    hash: bytes


def leaf_hash(content: bytes) -> bytes:
    """SHA-256 of a leaf."""
    return hashlib.sha256(_LEAF + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of a node over two others."""
    return hashlib.sha256(_NODE + left + right).digest()


class MerkleRoot:
    """The root of leaves that come one by one, of which no more than log₂ n hashes are held."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []  # leaves below, hash; ever smaller
        self.leaves = 0

    def add(self, leaf: bytes) -> None:
        """The hash of the next leaf."""
        below = 1
        while self._peaks and self._peaks[-1][0] == below:
            leaf = node_hash(self._peaks.pop()[1], leaf)
            below *= 2
        self._peaks.append((below, leaf))
        self.leaves += 1

    @property
    def value(self) -> bytes:
        """The root of all so far; of none, the SHA-256 of nothing."""
        if not self._peaks:
            return hashlib.sha256().digest()
        peaks = [peak for _, peak in self._peaks]
        root = peaks.pop()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over these hashes."""
    root = MerkleRoot()
    for leaf in leaves:
        root.add(leaf)
    return root.value


def merkle_path(leaves: Sequence[bytes], number: int) -> tuple[MerkleStep, ...]:
    """The steps from leaf `number` (from 0) to the root, the one beside the leaf first.

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= number < len(leaves):
        raise IndexError(f"there is no leaf {number} of {len(leaves)}")
    steps: list[MerkleStep] = []
    while len(leaves) > 1:
        left = 1 << ((len(leaves) - 1).bit_length() - 1)
        if number < left:
            steps.append(MerkleStep("right", merkle_root(leaves[left:])))
            leaves = leaves[:left]
        else:
            steps.append(MerkleStep("left", merkle_root(leaves[:left])))
            leaves, number = leaves[left:], number - left
    return tuple(reversed(steps))


def root_by(leaf: bytes, path: Sequence[MerkleStep]) -> bytes:
    """The root that this leaf has by this path."""
    for side, beside in path:
        leaf = node_hash(beside, leaf) if side == "left" else node_hash(leaf, beside)
    return leaf
