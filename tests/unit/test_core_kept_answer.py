"""Answers that are kept: what comes back is what was said, and damage is seen."""

from __future__ import annotations

import struct
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.contracts import Finish, Usage
from actors.core import kept_answer
from actors.core.journal import Journal, Reader
from actors.core.kept_answer import AnswerDamaged, pack, refill, unfolded_bytes, unpack
from actors.errors import WorkerLost
from tests.support.properties import examples

PIECES = st.lists(
    st.tuples(st.lists(st.integers(0, 2**31), max_size=3).map(tuple), st.text(max_size=4)),
    max_size=12,
)


def closed(pieces: list[tuple[tuple[int, ...], str]], base: int = 0) -> Journal:
    journal = Journal(base)
    for ids, text in pieces:
        journal.add(ids, text)
    journal.close(Finish.STOP, Usage(prompt_tokens=3, completion_tokens=journal.tokens), "m@1")
    return journal


def said(journal: Journal, from_seq: int = 0) -> tuple[tuple[int, ...], str]:
    ids: tuple[int, ...] = ()
    text = ""
    reader = Reader(journal, from_seq)
    while (item := reader.next()) is not None:
        ids, text = ids + item.token_ids, text + item.text
        if item.__class__.__name__ == "Completed":
            break
    return ids, text


ONE = closed([((1,), "one "), ((2, 3), "two"), ((), "!")])


@settings(max_examples=examples(50))
@given(PIECES)
def test_what_is_kept_comes_back(pieces: list[tuple[tuple[int, ...], str]]) -> None:
    journal, again = closed(pieces), Journal()
    data = pack(journal)
    refill(again, unpack(data))
    assert list(again.pieces()) == list(journal.pieces())
    assert (again.held, again.tokens) == (journal.held, journal.tokens)
    assert (again.finish, again.usage, again.model_ref) == (Finish.STOP, journal.usage, "m@1")
    plain = zlib.decompress(data[1:])
    assert len(plain) <= unfolded_bytes(journal) + 64, "the estimate is no less than it is"


@settings(max_examples=examples(30))
@given(PIECES, st.data())
def test_a_stream_that_has_begun_is_ended_from_what_is_kept(
    pieces: list[tuple[tuple[int, ...], str]], data: st.DataObject
) -> None:
    journal, again = closed(pieces), Journal()
    whole = list(journal.pieces())
    for ids, text in whole[: data.draw(st.integers(0, len(whole)))]:
        again.add(ids, text)
    refill(again, unpack(pack(journal)))
    assert said(again) == said(journal)


def test_what_was_cut_elsewhere_is_left_as_it_is() -> None:
    begun = Journal()
    begun.add((1, 2), "one t")
    with pytest.raises(WorkerLost):
        refill(begun, unpack(pack(ONE)))
    assert (begun.tokens, begun.finish) == (2, None)


def test_what_can_not_be_read_where_it_is_to_be_is_left_as_it_is() -> None:
    for from_seq in (0, 1, 3):
        whole = Journal()
        refill(whole, unpack(pack(ONE)), from_seq)
        assert said(whole, from_seq)[0] == (1, 2, 3)[from_seq:]
    fresh = Journal()
    for from_seq in (2, 4):
        with pytest.raises(WorkerLost, match=f"token {from_seq}"):
            refill(fresh, unpack(pack(ONE)), from_seq)
    assert (fresh.tokens, fresh.finish) == (0, None)


def test_an_answer_that_was_continued_is_kept_whole() -> None:
    before = [((1,), "one "), ((2, 3), "two")]
    later = closed([((4,), "x")], base=3)
    again = Journal()
    refill(again, unpack(pack(later, before)))
    assert said(again) == ((1, 2, 3, 4), "one twox")
    with pytest.raises(ValueError, match="were told"):
        pack(later)


def test_one_without_an_end_is_not_kept() -> None:
    with pytest.raises(ValueError, match="no end"):
        pack(Journal())


@settings(max_examples=examples(200))
@given(st.data())
def test_a_changed_byte_is_seen(data: st.DataObject) -> None:
    kept = bytearray(pack(ONE))
    at = data.draw(st.integers(0, len(kept) - 1))
    kept[at] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack(bytes(kept))
    except AnswerDamaged:
        return
    assert found == unpack(pack(ONE)), "a bit that means nothing may change"


@pytest.mark.parametrize("cut", range(len(pack(ONE))))
def test_one_that_is_cut_off_is_seen(cut: int) -> None:
    with pytest.raises(AnswerDamaged):
        unpack(pack(ONE)[:cut])


def test_one_with_more_behind_it_is_seen() -> None:
    with pytest.raises(AnswerDamaged, match="more behind"):
        unpack(pack(ONE) + b"x")


def test_one_that_unfolds_to_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"\x01" + zlib.compress(b"\0" * (kept_answer.MOST_UNFOLDED + 1))
    assert len(bomb) < 10_000
    with pytest.raises(AnswerDamaged, match="above"):
        unpack(bomb)


@pytest.mark.parametrize(
    ("ids", "cuts", "usage"),
    [
        ([1], [1, 1, 1, 1], [1, 1]),
        ([1], [2, 1], [1, 1]),
        ([1], [1, 9], [1, 1]),
        ([1], [0, 1, 1, 1], [1, 1]),
        ([1], [1], [1, 1]),
        ([], [1], [1, 1]),
        ([1], [1, 1], [1, -1]),
    ],
)
def test_parts_that_do_not_fit_are_seen(ids: list[int], cuts: list[int], usage: list[int]) -> None:
    parts = [numbers(ids), numbers(cuts), "ab", "stop", usage, "m@1"]
    with pytest.raises(AnswerDamaged):
        unpack(b"\x01" + zlib.compress(msgspec.msgpack.encode(parts)))
    good = [numbers([1]), numbers([1, 1]), "ab", "stop", [1, 1], "m@1"]
    unpack(b"\x01" + zlib.compress(msgspec.msgpack.encode(good)))


def numbers(these: list[int]) -> bytes:
    return struct.pack(f"<{len(these)}I", *these)


def test_a_token_that_is_no_number_of_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        pack(closed([((1 << 40,), "x")]))
