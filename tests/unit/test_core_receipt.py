"""Receipts: what they say, and of what there is none."""

from __future__ import annotations

import pytest

from actors.core.merkle import MerkleStep, root_by
from actors.core.receipt import FORMAT, receipt_of
from actors.core.sealing import leaf_of, seal, unpack_leaves
from tests.support.money import entry

SEALED_AT = "2026-12-01T00:00:00.000000Z"
ENTRIES = [entry(1), entry(2), entry(3, number=2, micros=-2, kind="refund"), entry(4)]


def test_a_receipt_sums_up_and_leads_to_the_root() -> None:
    ((block, packed),) = seal(None, list(map(leaf_of, ENTRIES)), to_seq=4, sealed_at=SEALED_AT)
    told = receipt_of([ENTRIES[1], ENTRIES[2]], {1: unpack_leaves(packed)}, [block])
    assert (told.format, told.job_id, told.sealed) == (FORMAT, ENTRIES[1].job_id, True)
    assert told.bill == {
        "prompt_tokens": 5,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "output_tokens": 5,
        "micros": 0,
        "currency": "EUR",
    }
    for listed in told.entries:
        steps = [step.split(":") for step in listed.path]
        path = [MerkleStep(side, bytes.fromhex(beside)) for side, beside in steps]  # type: ignore[arg-type]
        assert root_by(listed.columns.hash, path).hex() == block.root


def test_the_turn_of_a_month_has_two_blocks_of_one_range() -> None:
    late, early = entry(1, at="2026-11-30T23:59:59.999999Z"), entry(2, at=SEALED_AT)
    sealed = seal(None, [leaf_of(late), leaf_of(early)], to_seq=2, sealed_at=SEALED_AT)
    leaves = {block.number: unpack_leaves(packed) for block, packed in sealed}
    told = receipt_of([late, early], leaves, [block for block, _ in sealed])
    assert [listed.block for listed in told.entries] == [1, 2]


def test_what_is_not_sealed_yet_is_said() -> None:
    told = receipt_of([entry(1)], {}, [])
    assert (told.sealed, told.entries[0].block, told.entries[0].path) == (False, None, ())


def test_of_what_there_is_no_receipt() -> None:
    with pytest.raises(ValueError, match="no receipt"):
        receipt_of([], {}, [])
    ((block, _),) = seal(None, [leaf_of(entry(1))], to_seq=1, sealed_at=SEALED_AT)
    with pytest.raises(ValueError, match="keeps no leaf of entry 1"):
        receipt_of([entry(1)], {1: []}, [block])
