"""The receipt of a job: its entries, each with the path to the root of its block, and the headers
of the blocks from there to a head. Who has that head from elsewhere needs nobody else to check it
(`examples/verify_receipt.py`). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from actors.core.merkle import merkle_path
from actors.core.sealing import LedgerBlock, LedgerEntry

FORMAT: Final = "tether-receipt-1"
SUMMED: Final = ("prompt_tokens", "cached_tokens", "reasoning_tokens", "output_tokens", "micros")


class ReceiptEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry, the number of its block (None: it isn't sealed yet), and the steps from its hash
    to the root of that, as `left:` or `right:` and 64 hex digits."""

    columns: LedgerEntry
    block: int | None = None
    path: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """All that was billed for a job: the sum of its entries is its bill."""

    format: str
    job_id: str
    bill: dict[str, int | str]
    entries: tuple[ReceiptEntry, ...]
    blocks: tuple[LedgerBlock, ...]

    @property
    def sealed(self) -> bool:
        """Can it be checked?"""
        return all(entry.block is not None for entry in self.entries)


def receipt_of(
    entries: Sequence[LedgerEntry],
    leaves: Mapping[int, Sequence[tuple[int, bytes]]],
    blocks: Sequence[LedgerBlock],
) -> Receipt:
    """The receipt of a job that has these entries.

    Args:
        leaves: of the blocks that hold one of them, by number: `seq` and hash of each entry.
        blocks: from the first of those to the head.

    Raises:
        ValueError: there is no entry, or a block's leaves aren't what it holds.
    """
    if not entries:
        raise ValueError("a job without an entry has no receipt")
    bill: dict[str, int | str] = {
        name: sum(getattr(entry, name) for entry in entries) for name in SUMMED
    }
    bill["currency"] = entries[0].currency
    return Receipt(
        format=FORMAT,
        job_id=entries[0].job_id,
        bill=bill,
        entries=tuple(_entry(entry, leaves, blocks) for entry in entries),
        blocks=tuple(blocks),
    )


def _entry(
    entry: LedgerEntry,
    leaves: Mapping[int, Sequence[tuple[int, bytes]]],
    blocks: Sequence[LedgerBlock],
) -> ReceiptEntry:
    for block in blocks:
        if block.from_seq <= entry.seq <= block.to_seq and block.month == entry.month:
            break
    else:
        return ReceiptEntry(columns=entry)
    kept = leaves.get(block.number, ())
    number = next((n for n, (seq, _) in enumerate(kept) if seq == entry.seq), None)
    if number is None:
        raise ValueError(f"block {block.number} keeps no leaf of entry {entry.seq}")
    steps = merkle_path([leaf for _, leaf in kept], number)
    path = tuple(f"{side}:{beside.hex()}" for side, beside in steps)
    return ReceiptEntry(columns=entry, block=block.number, path=path)


def spelled(receipt: Receipt) -> dict[str, Any]:
    """As JSON."""
    built: dict[str, Any] = msgspec.to_builtins(receipt)
    return built
