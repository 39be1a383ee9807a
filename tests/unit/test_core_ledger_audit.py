"""An audit finds whatever differs from what was sealed, and names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.ledger_audit import MOST, LedgerAudit
from actors.core.sealing import LedgerBlock, LedgerEntry
from tests.support.money import entry
from tests.unit.test_core_sealing import blocks_of

Sealed = Sequence[tuple[LedgerBlock, bytes]]
COUNT, AT_ONCE = 23, 5


def audit(sealed: Sealed, entries: Sequence[LedgerEntry], heads: Sequence[str] = ()) -> LedgerAudit:
    """As the shell does it."""
    found = LedgerAudit(heads)
    for block, _ in sealed:
        found.follow(block)
    found.follows()
    rest = sorted(entries, key=lambda e: e.seq)
    for block, leaves in sealed:
        found.open(block, leaves)
        while rest and rest[0].seq <= block.to_seq:
            found.see(rest.pop(0))
        found.close()
    for late in rest:
        found.see(late)
    return found


def whole() -> tuple[list[tuple[LedgerBlock, bytes]], list[LedgerEntry]]:
    return blocks_of(COUNT, AT_ONCE), [entry(seq) for seq in range(1, COUNT + 1)]


def test_what_was_sealed_is_sound() -> None:
    sealed, entries = whole()
    late = [entry(COUNT + 1), entry(COUNT + 2)]
    found = audit(sealed, entries + late, [sealed[2][0].hash])
    assert found.sound
    assert (found.blocks, found.entries, found.unsealed) == (5, COUNT, 2)
    assert found.head == sealed[-1][0]


@given(st.integers(1, COUNT), st.sampled_from(LedgerEntry.__struct_fields__))
def test_one_changed_column_is_found_and_named(seq: int, column: str) -> None:
    sealed, entries = whole()
    value = getattr(entries[seq - 1], column)
    if column == "seq":
        value = -1 - value  # such a one sorts before all others
    changed = value + 1 if isinstance(value, int) else f"{value or ''}x"
    entries[seq - 1] = msgspec.structs.replace(entries[seq - 1], **{column: changed})
    faults = audit(sealed, entries).faults
    if column == "seq":
        assert any("was added" in f for f in faults)
        assert any(f"entry {seq} of block" in f and "missing" in f for f in faults)
    else:
        (fault,) = faults
        assert fault.startswith(f"entry {seq} (")
        assert "was changed since block" in fault


@given(st.integers(1, COUNT))
def test_a_missing_and_an_added_entry(seq: int) -> None:
    sealed, entries = whole()
    gone = entries.pop(seq - 1)
    (fault,) = audit(sealed, entries).faults
    assert fault == f"entry {seq} of block {(seq - 1) // AT_ONCE + 1} is missing"
    twice = msgspec.structs.replace(gone, number=2)
    (fault,) = audit(sealed, [*entries, gone, twice]).faults
    assert "was added to block" in fault
    assert f"(number 2 of job {gone.job_id})" in fault


@given(st.integers(1, COUNT), st.integers(1, COUNT))
def test_two_that_changed_places(one: int, other: int) -> None:
    sealed, entries = whole()
    first, second = entries[one - 1], entries[other - 1]
    entries[one - 1] = msgspec.structs.replace(second, seq=one)
    entries[other - 1] = msgspec.structs.replace(first, seq=other)
    faults = audit(sealed, entries).faults
    assert [f.split(" (")[0] for f in faults] == (
        [] if one == other else [f"entry {seq}" for seq in sorted((one, other))]
    )


@pytest.mark.parametrize("column", LedgerBlock.__struct_fields__)
def test_a_changed_block_is_found(column: str) -> None:
    sealed, entries = whole()
    block, leaves = sealed[1]
    value = getattr(block, column)
    flipped = (
        f"{value[:-1]}{'1' if value[-1] != '1' else '2'}" if isinstance(value, str) else value + 1
    )
    sealed[1] = (msgspec.structs.replace(block, **{column: flipped}), leaves)
    faults = audit(sealed, entries).faults
    assert any("block 2" in fault or f"block {flipped}" in fault for fault in faults)


def resealed(change: Callable[[LedgerBlock], LedgerBlock]) -> list[str]:
    sealed, entries = whole()
    block, leaves = sealed[1]
    sealed[1] = (change(block).sealed(), leaves)
    return audit(sealed, entries).faults


def test_a_block_that_was_sealed_anew_breaks_the_chain() -> None:
    faults = resealed(lambda block: msgspec.structs.replace(block, entries=4))
    assert any("block 3 doesn't follow" in fault for fault in faults)
    faults = resealed(lambda block: msgspec.structs.replace(block, from_seq=5))
    assert any("begins at entry 5, and not at 6" in fault for fault in faults)


def test_a_block_that_is_gone_or_there_twice() -> None:
    sealed, entries = whole()
    faults = audit([*sealed[:2], *sealed[3:]], entries).faults
    assert "before block 4 comes number 3, which is missing" in faults
    assert any("was added: no block holds it" in fault for fault in faults)
    assert not audit([*sealed[:2], *sealed[1:]], entries).sound


def test_a_ledger_that_was_written_anew_lacks_the_published_head() -> None:
    sealed, entries = whole()
    assert audit(sealed, entries, [sealed[0][0].hash]).sound
    (fault,) = audit(sealed, entries, ["ab" * 32]).faults
    assert "no block has the published hash abab" in fault


def test_changed_leaves_are_found_and_hide_nothing() -> None:
    sealed, entries = whole()
    block, leaves = sealed[1]
    for other in (bytes([leaves[9] ^ 1]).join((leaves[:9], leaves[10:])), b"", None, leaves[:-1]):
        forged = [sealed[0], (block, other), *sealed[2:]]
        (fault,) = audit(forged, entries).faults  # type: ignore[arg-type]
        assert fault.startswith("the leaves of block 2")
        changed = [msgspec.structs.replace(e, micros=0) if e.seq == 7 else e for e in entries]
        (fault,) = audit(forged, changed).faults  # type: ignore[arg-type]
        assert fault.startswith("block 2 (entries 6 to 10, 2026-11) has 5 entries that aren't")


def test_what_is_past_retention_is_counted() -> None:
    sealed, _ = whole()
    found = LedgerAudit()
    for block, _ in sealed:
        found.pass_over(block)
    assert (found.gone, found.sound) == (COUNT, True)


def test_the_sentences_are_bounded() -> None:
    found = LedgerAudit([f"{n:064x}" for n in range(MOST + 7)])
    found.follows()
    assert (len(found.faults), found.unnamed, found.sound) == (MOST, 7, False)
