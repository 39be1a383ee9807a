"""What is hashed of entries and blocks, and how blocks are cut."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.merkle import merkle_root
from actors.core.sealing import (
    ENTRY,
    NO_BLOCK,
    LedgerBlock,
    LedgerEntry,
    canonical,
    leaf_of,
    netstring,
    seal,
    unpack_leaves,
)
from tests.support.money import entry

SEALED_AT = "2026-11-30T12:00:00.000000Z"
COLUMNS = st.lists(st.none() | st.text(max_size=9) | st.integers(), min_size=3, max_size=3)


def test_the_bytes_of_the_document() -> None:
    told = canonical(ENTRY, {"a": 12, "b": None, "c": "", "d": "grün"})
    assert told == b"14:tether-entry-1,2:12,-,0:,5:gr\xc3\xbcn,"
    assert (
        entry(5).hash
        == hashlib.sha256(b"\x00" + canonical(ENTRY, msgspec.structs.asdict(entry(5)))).digest()
    )


@given(COLUMNS, COLUMNS)
def test_different_columns_have_different_bytes(
    one: list[str | int | None], other: list[str | int | None]
) -> None:
    same = [None if v is None else str(v) for v in one] == [
        None if v is None else str(v) for v in other
    ]
    assert (b"".join(map(netstring, one)) == b"".join(map(netstring, other))) is same


@pytest.mark.parametrize("name", LedgerEntry.__struct_fields__)
def test_every_column_of_an_entry_is_hashed(name: str) -> None:
    whole = entry(5)
    value = getattr(whole, name)
    changed = value + 1 if isinstance(value, int) else f"{value or ''}x"
    assert msgspec.structs.replace(whole, **{name: changed}).hash != whole.hash


def blocks_of(count: int, at_once: int) -> list[tuple[LedgerBlock, bytes]]:
    sealed: list[tuple[LedgerBlock, bytes]] = []
    for first in range(1, count + 1, at_once):
        last = min(first + at_once - 1, count)
        sealed += seal(
            sealed[-1][0] if sealed else None,
            [leaf_of(entry(seq)) for seq in range(first, last + 1)],
            to_seq=last,
            sealed_at=SEALED_AT,
        )
    return sealed


@pytest.mark.parametrize("name", LedgerBlock.__struct_fields__)
def test_every_column_of_a_block_is_hashed(name: str) -> None:
    block = blocks_of(4, 2)[1][0]
    value = getattr(block, name)
    changed = msgspec.structs.replace(block, **{name: value + 1 if isinstance(value, int) else "x"})
    assert block.true_hash == block.hash
    assert changed.true_hash != changed.hash


def test_blocks_follow_each_other() -> None:
    sealed = blocks_of(10, 4)
    spans = [(b.number, b.from_seq, b.to_seq, b.entries) for b, _ in sealed]
    assert spans == [(1, 1, 4, 4), (2, 5, 8, 4), (3, 9, 10, 2)]
    before = NO_BLOCK
    for block, packed in sealed:
        leaves = unpack_leaves(packed)
        assert [seq for seq, _ in leaves] == list(range(block.from_seq, block.to_seq + 1))
        assert merkle_root([leaf for _, leaf in leaves]).hex() == block.root
        assert block.previous == before
        before = block.hash


def test_a_block_is_of_one_month() -> None:
    turn = [
        leaf_of(entry(1, at="2026-11-30T23:59:59.999999Z")),
        leaf_of(entry(2, at="2026-12-01T00:00:00.000000Z")),
        leaf_of(entry(3, at="2026-11-30T23:59:59.999998Z")),
    ]
    (november, _), (december, packed) = seal(None, turn, to_seq=9, sealed_at=SEALED_AT)
    assert (november.month, november.entries, november.last_at) == ("2026-11", 2, turn[0].at)
    assert november.first_at == turn[2].at
    assert (december.month, december.entries, december.number) == ("2026-12", 1, 2)
    assert december.previous == november.hash
    assert (december.from_seq, december.to_seq) == (november.from_seq, november.to_seq) == (1, 9)
    assert [seq for seq, _ in unpack_leaves(packed + b"rest")] == [2]


@pytest.mark.parametrize("seqs", [(3, 4), (0, 1), (1, 1), (2, 1)])
def test_what_is_out_of_order_is_not_sealed(seqs: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        seal(None, [leaf_of(entry(seq)) for seq in seqs], to_seq=3, sealed_at=SEALED_AT)


def test_nothing_makes_no_block() -> None:
    assert seal(None, [], to_seq=3, sealed_at=SEALED_AT) == ()
