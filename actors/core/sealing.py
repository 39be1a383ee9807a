"""What is hashed of the ledger: entries and blocks, byte for byte. Pure.

An entry or a block is hashed over a word that names the format and then **every** column, in the
order of the fields here, each as a netstring: its length in bytes in decimal, `:`, its bytes, `,`.
A null is `-,`, which no netstring is. Numbers are decimal, words UTF-8, ids as UUIDs are written,
times in UTC to the microsecond (`2026-11-30T23:59:59.123456Z`), hashes 64 hex digits. No two
entries have the same bytes. docs/ledger.md tells it to whoever checks a receipt.
Source of netstrings: D. J. Bernstein, https://cr.yp.to/proto/netstrings.txt.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from actors.core.merkle import HASH_BYTES, leaf_hash, merkle_root

ENTRY: Final = "tether-entry-1"
BLOCK: Final = "tether-block-1"
NO_BLOCK: Final = "0" * 2 * HASH_BYTES
"""The hash before the first block."""
_LEAF: Final = struct.Struct(f">q{HASH_BYTES}s")


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger: each column, as it is hashed and as a receipt shows it."""

    seq: int
    at: str
    job_id: str
    number: int
    kind: str
    tenant_id: str
    key_id: str | None
    endpoint: str
    model_ref: str
    attempt: int
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    output_tokens: int
    micros: int
    price: int | None
    currency: str
    note: str
    made_by: str

    @property
    def month(self) -> str:
        """Of which month it is, as `2026-11`, in UTC: partitions and blocks are of one."""
        return self.at[:7]

    @property
    def hash(self) -> bytes:
        """Its leaf in the tree of its block."""
        return leaf_hash(canonical(ENTRY, msgspec.structs.asdict(self)))


class LedgerBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed block: the `entries` of one month with numbers from `from_seq` to `to_seq`. Blocks
    at the turn of a month share their numbers, and no entries. `previous` is the hash of the block
    before, and `hash` that over all other columns."""

    number: int
    from_seq: int
    to_seq: int
    entries: int
    first_at: str
    last_at: str
    root: str
    previous: str
    sealed_at: str
    hash: str = ""

    @property
    def month(self) -> str:
        """Of which month its entries are, as `2026-11`."""
        return self.first_at[:7]

    @property
    def true_hash(self) -> str:
        """What `hash` must be, by the other columns."""
        columns = msgspec.structs.asdict(self)
        del columns["hash"]
        return hashlib.sha256(canonical(BLOCK, columns)).hexdigest()

    def sealed(self) -> LedgerBlock:
        """The same with its hash."""
        return msgspec.structs.replace(self, hash=self.true_hash)


def canonical(form: str, columns: Mapping[str, object]) -> bytes:
    """What is hashed of these columns, in their order."""
    return netstring(form) + b"".join(netstring(value) for value in columns.values())


def netstring(value: object) -> bytes:
    """One column."""
    if value is None:
        return b"-,"
    text = str(value).encode("utf-8", "surrogatepass")
    return b"%d:%s," % (len(text), text)


def stamp(at: datetime) -> str:
    """A time as it is hashed."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def entry_of(row: Mapping[str, Any]) -> LedgerEntry:
    """A row of the table as an entry."""
    columns = {name: row[name] for name in LedgerEntry.__struct_fields__}
    columns["at"] = stamp(columns["at"])
    columns["job_id"] = str(columns["job_id"])
    columns["key_id"] = None if columns["key_id"] is None else str(columns["key_id"])
    return LedgerEntry(**columns)


def block_of(row: Mapping[str, Any]) -> LedgerBlock:
    """A row of the table of blocks as a block."""
    columns = {name: row[name] for name in LedgerBlock.__struct_fields__}
    for name in ("first_at", "last_at", "sealed_at"):
        columns[name] = stamp(columns[name])
    for name in ("root", "previous", "hash"):
        columns[name] = columns[name].hex()
    return LedgerBlock(**columns)


class SealedLeaf(NamedTuple):
    """What a block takes of an entry."""

    seq: int
    at: str
    hash: bytes


def leaf_of(entry: LedgerEntry) -> SealedLeaf:
    """Of this entry."""
    return SealedLeaf(entry.seq, entry.at, entry.hash)


def seal(
    before: LedgerBlock | None, leaves: Sequence[SealedLeaf], *, to_seq: int, sealed_at: str
) -> tuple[tuple[LedgerBlock, bytes], ...]:
    """The blocks that close these entries, in the order of their numbers, each with its packed
    leaves: one for each month that they are of. They reach from the end of `before` (None: there is
    no block yet) to `to_seq`.

    Raises:
        ValueError: the entries aren't in that range, or not in the order of `seq`.
    """
    from_seq = 1 if before is None else before.to_seq + 1
    last = from_seq - 1
    for leaf in leaves:
        if not last < leaf.seq <= to_seq:
            raise ValueError(f"entry {leaf.seq} does not follow {last} up to {to_seq}")
        last = leaf.seq
    blocks: list[tuple[LedgerBlock, bytes]] = []
    for month in sorted({leaf.at[:7] for leaf in leaves}):
        of_month = [leaf for leaf in leaves if leaf.at[:7] == month]
        before = LedgerBlock(
            number=1 if before is None else before.number + 1,
            from_seq=from_seq,
            to_seq=to_seq,
            entries=len(of_month),
            first_at=min(leaf.at for leaf in of_month),
            last_at=max(leaf.at for leaf in of_month),
            root=merkle_root([leaf.hash for leaf in of_month]).hex(),
            previous=NO_BLOCK if before is None else before.hash,
            sealed_at=sealed_at,
        ).sealed()
        packed = b"".join(_LEAF.pack(leaf.seq, leaf.hash) for leaf in of_month)
        blocks.append((before, packed))
    return tuple(blocks)


def unpack_leaves(packed: bytes) -> list[tuple[int, bytes]]:
    """Number and hash of each entry of a block, by which `tether ledger verify` names what was
    changed; a rest that is no whole leaf is left out."""
    whole = len(packed) - len(packed) % _LEAF.size
    return list(_LEAF.iter_unpack(packed[:whole]))
