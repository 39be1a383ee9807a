"""The audit of a ledger: are its entries those that were sealed? Pure.

It is told all blocks in the order of their numbers (`follow`), then, month by month, each block
with its leaves and each entry in the order of `seq` (`open`, `see`, `close`). It holds one block at
a time. Everything that differs becomes a sentence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from actors.core.merkle import MerkleRoot, merkle_root
from actors.core.sealing import NO_BLOCK, LedgerBlock, LedgerEntry, unpack_leaves

MOST: Final = 50  # sentences; what else is wrong is counted


class LedgerAudit:
    """One audit.

    Args:
        heads: hashes of blocks that were published: each must be one of the chain.
    """

    def __init__(self, heads: Collection[str] = ()) -> None:
        self._heads = dict.fromkeys(heads)
        self._block: LedgerBlock | None = None
        self._due: deque[tuple[int, bytes]] = deque()
        self._root = MerkleRoot()
        self._named = True  # the leaves are those that were sealed
        self._wrong: list[str] = []
        self.head: LedgerBlock | None = None
        self.faults: list[str] = []
        self.unnamed = 0
        self.blocks = self.entries = self.unsealed = self.gone = 0

    @property
    def sound(self) -> bool:
        """Was everything as it was sealed?"""
        return not self.faults

    # ---- the chain of blocks

    def follow(self, block: LedgerBlock) -> None:
        """The next block of the chain."""
        last, at = self.head, f"block {block.number}"
        self.head = block
        self.blocks += 1
        if block.hash != block.true_hash:
            self._fault(
                f"{at} was changed: its hash is {block.hash}, and that of its columns "
                f"{block.true_hash}"
            )
        self._heads.pop(block.hash, None)
        number = 1 if last is None else last.number + 1
        if block.number != number:
            self._fault(f"before {at} comes number {number}, which is missing")
            return
        if block.previous != (NO_BLOCK if last is None else last.hash):
            self._fault(f"{at} doesn't follow the block before: it names {block.previous}")
        start = 1 if last is None else last.to_seq + 1
        turn = last is not None and (last.from_seq, last.to_seq) == (block.from_seq, block.to_seq)
        if block.from_seq != start and not turn:
            self._fault(f"{at} begins at entry {block.from_seq}, and not at {start}")

    def follows(self) -> None:
        """The chain is at its end."""
        for head in self._heads:
            self._fault(f"no block has the published hash {head}: the ledger was rewritten")

    # ---- the entries of a month

    def open(self, block: LedgerBlock, leaves: bytes | None) -> None:
        """From here on come the entries of this block; `leaves` is what was kept of them."""
        self._block = block
        self._root = MerkleRoot()
        self._wrong = []
        due = unpack_leaves(leaves or b"")
        hashes = [leaf for _, leaf in due]
        self._named = len(due) == block.entries and merkle_root(hashes).hex() == block.root
        self._due = deque(due if self._named else ())

    def see(self, entry: LedgerEntry) -> None:
        """The next entry, of the block that is open or, without one, of none."""
        block, hashed = self._block, entry.hash
        if block is None or not block.from_seq <= entry.seq <= block.to_seq:
            if self.head is not None and entry.seq <= self.head.to_seq:
                self._fault(f"{_name(entry)} was added: no block holds it")
            else:
                self.unsealed += 1
            return
        self.entries += 1
        self._root.add(hashed)
        if not self._named:
            return
        while self._due and self._due[0][0] < entry.seq:
            self._missing(block)
        if not self._due or self._due[0][0] > entry.seq:
            self._wrong.append(f"{_name(entry)} was added to block {block.number}")
        elif self._due.popleft()[1] != hashed:
            self._wrong.append(f"{_name(entry)} was changed since block {block.number} sealed it")

    def close(self) -> None:
        """All entries of the open block have come."""
        block, self._block = self._block, None
        if block is None:
            return
        while self._due:
            self._missing(block)
        for sentence in self._wrong:
            self._fault(sentence)
        if self._named:
            return
        same = self._root.leaves == block.entries and self._root.value.hex() == block.root
        span = f"block {block.number} (entries {block.from_seq} to {block.to_seq}, {block.month})"
        self._fault(
            f"the leaves of {span} were changed, and its entries were not"
            if same
            else f"{span} has {self._root.leaves} entries that aren't the {block.entries} sealed "
            "ones; its leaves were changed too, so nobody can say which"
        )

    def pass_over(self, block: LedgerBlock) -> None:
        """A block whose month is past retention, with all of its entries."""
        self.gone += block.entries

    def _missing(self, block: LedgerBlock) -> None:
        seq, _ = self._due.popleft()
        self._wrong.append(f"entry {seq} of block {block.number} is missing")

    def _fault(self, sentence: str) -> None:
        if len(self.faults) < MOST:
            self.faults.append(sentence)
        else:
            self.unnamed += 1


def _name(entry: LedgerEntry) -> str:
    return f"entry {entry.seq} (number {entry.number} of job {entry.job_id})"
