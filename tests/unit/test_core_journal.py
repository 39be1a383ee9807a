from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import Chunk, Completed, Finish, Usage
from actors.core.journal import MAX_PIECES, Journal, Reader
from actors.errors import AnswerGone, WorkerLost

PIECES = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=3).map(tuple), st.text("abc", max_size=3)),
    max_size=12,
)


def filled(pieces: list[tuple[tuple[int, ...], str]], *, close: bool = True) -> Journal:
    journal = Journal()
    for ids, text in pieces:
        journal.add(ids, text)
    if close:
        journal.close(Finish.STOP, Usage(prompt_tokens=1, completion_tokens=journal.tokens), "m@1")
    return journal


def drain(reader: Reader) -> tuple[tuple[int, ...], str, list[int], bool]:
    ids: tuple[int, ...] = ()
    text, seqs, complete = "", [], False
    while (item := reader.next()) is not None:
        ids += item.token_ids
        text += item.text
        seqs.append(item.seq)
        if isinstance(item, Completed):
            complete = True
            break
    return ids, text, seqs, complete


def test_a_place_that_lies_behind_a_continuation_is_no_hindrance() -> None:
    """A client that came back at token 1 has its answer continued from token 2, elsewhere."""
    journal = Journal(base=2)
    reader = Reader(journal, 2, split_at=1)
    journal.add((5,), "e")
    item = reader.next()
    assert isinstance(item, Chunk)
    assert (item.seq, item.token_ids) == (2, (5,))


@given(PIECES)
def test_a_reader_gets_everything_once(pieces: list[tuple[tuple[int, ...], str]]) -> None:
    ids, text, _, complete = drain(Reader(filled(pieces)))
    assert complete
    assert ids == tuple(i for piece, _ in pieces for i in piece)
    assert text == "".join(t for _, t in pieces)


@given(PIECES, st.data())
def test_reading_in_two_parts_equals_reading_at_once(
    pieces: list[tuple[tuple[int, ...], str]], data: st.DataObject
) -> None:
    """Wherever a reader stopped, another one goes on there and nothing is lost or doubled,
    even if the chunks were coalesced: `split_at` keeps the place."""
    journal = filled(pieces)
    whole_ids, whole_text, _, _ = drain(Reader(journal))
    first = Reader(filled(pieces, close=False))
    head_ids: tuple[int, ...] = ()
    head_text = ""
    part = filled(pieces[: data.draw(st.integers(0, len(pieces)))], close=False)
    first = Reader(part)
    while (item := first.next()) is not None:
        head_ids += item.token_ids
        head_text += item.text
    tail_ids, tail_text, _, _ = drain(Reader(journal, len(head_ids)))
    assert head_ids + tail_ids == whole_ids
    assert head_text + tail_text == whole_text
    split = drain(Reader(journal, split_at=len(head_ids)))
    assert split[0] == whole_ids
    assert split[1] == whole_text
    if 0 < len(head_ids) < len(whole_ids):
        assert len(head_ids) in split[2]


def test_a_whole_reader_waits_for_the_end() -> None:
    journal = filled([((1,), "a"), ((2,), "b")], close=False)
    reader = Reader(journal, whole=True)
    assert not reader.pending
    assert reader.next() is None
    journal.close(Finish.LENGTH, Usage(prompt_tokens=3, completion_tokens=2), "m@1")
    assert reader.pending
    assert reader.next() == Completed(
        seq=0,
        token_ids=(1, 2),
        text="ab",
        finish=Finish.LENGTH,
        usage=Usage(prompt_tokens=3, completion_tokens=2),
        model_ref="m@1",
    )


def test_overlap_is_dropped_and_gaps_are_refused() -> None:
    journal = filled([((1, 2), "ab"), ((3,), "c")], close=False)
    assert not journal.add((1, 2), "ab", 0)
    assert not journal.add((2, 3), "bc", 1)
    assert journal.add((4,), "d", 3)
    assert journal.emitted_ids == (1, 2, 3, 4)
    with pytest.raises(WorkerLost, match="sent 1 tokens from 5 where 4"):
        journal.add((6,), "f", 5)
    with pytest.raises(WorkerLost):
        journal.add((4, 5), "de", 3)
    assert drain(Reader(filled([((1, 2), "ab")])))[1] == "ab"


def test_a_place_inside_a_piece_cannot_be_read_from() -> None:
    journal = filled([((1, 2), "ab"), ((3,), "c")])
    with pytest.raises(AnswerGone, match="token 1"):
        Reader(journal, 1)
    with pytest.raises(AnswerGone):
        Reader(journal, 4)
    assert drain(Reader(journal, 2))[:2] == ((3,), "c")
    assert drain(Reader(journal, 3))[:2] == ((), "")


def test_a_continuation_starts_at_its_base() -> None:
    journal = Journal(base=5)
    journal.add((6,), "f")
    assert Reader(journal, 5).next() == Chunk(seq=5, token_ids=(6,), text="f")
    with pytest.raises(AnswerGone):
        Reader(journal, 0)


def test_text_without_a_token_travels_with_the_next_one() -> None:
    journal = filled([((1,), "a"), ((), "-"), ((2,), "b"), ((), "!")], close=False)
    reader = Reader(journal)
    assert reader.next() == Chunk(seq=0, token_ids=(1, 2), text="a-b")
    assert reader.next() is None
    journal.close(Finish.STOP, Usage())
    last = reader.next()
    assert isinstance(last, Completed)
    assert (last.seq, last.token_ids, last.text) == (2, (), "!")


def test_the_prompt_comes_with_the_first_item_only() -> None:
    journal = filled([((1,), "a")], close=False)
    journal.prompt_ids = (7, 8)
    reader = Reader(journal, with_prompt=True)
    first = reader.next()
    journal.add((2,), "b")
    second = reader.next()
    assert isinstance(first, Chunk)
    assert isinstance(second, Chunk)
    assert first.prompt_ids == (7, 8)
    assert second.prompt_ids == ()


def test_a_late_joiner_gets_chunks_of_bounded_size() -> None:
    journal = filled([((1,), "a")] * (2 * MAX_PIECES + 5))
    reader = Reader(journal)
    sizes = []
    while (item := reader.next()) is not None:
        sizes.append(len(item.token_ids))
        if isinstance(item, Completed):
            break
    assert sizes == [MAX_PIECES, MAX_PIECES, 5]
