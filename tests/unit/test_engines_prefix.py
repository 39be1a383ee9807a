"""The index of beginnings: whatever is added and asked, it finds the longest one that it still
holds, in its own scope, and never holds more than it has room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.prefix import Prefixes, common

Tokens = tuple[int, ...]
WORDS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


def index(room: int) -> Prefixes[Tokens]:
    """Pieces are the tokens themselves."""
    return Prefixes(room, lambda piece, at: (piece[:at], piece[at:]))


def add(to: Prefixes[Tokens], scope: str, tokens: Tokens) -> None:
    to.add(scope, tokens, lambda start, end: tokens[start:end])


@given(WORDS, WORDS)
def test_what_is_common_is_the_longest_equal_beginning(one: Tokens, other: Tokens) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert one[: length + 1] != other[: length + 1] or length == len(one) == len(other)


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), WORDS), max_size=40),
)
def test_it_finds_what_it_holds_and_holds_what_it_may(
    room: int, asked: list[tuple[bool, str, Tokens]]
) -> None:
    held = index(room)
    added: list[tuple[str, Tokens]] = []
    for adds, scope, tokens in asked:
        if adds:
            add(held, scope, tokens)
            added.append((scope, tokens))
            assert held.length(scope, tokens) == min(len(tokens), room)
        else:
            length = held.length(scope, tokens)
            pieces = held.find(scope, tokens)
            found = tuple(t for piece, count in pieces for t in piece[:count])
            assert found == tokens[:length]
            best = max((common(t, tokens) for s, t in added if s == scope), default=0)
            assert length <= best
            if held.evicted == 0 and all(len(t) <= room for _, t in added):
                assert length == best
        assert 0 <= held.tokens <= room


@given(st.lists(WORDS, min_size=1, max_size=20))
def test_what_answers_have_in_common_is_held_once(answers: list[Tokens]) -> None:
    held = index(10_000)
    for tokens in answers:
        add(held, "", tokens)
    beginnings = {tokens[:end] for tokens in answers for end in range(1, len(tokens) + 1)}
    assert held.tokens == len(beginnings)


def test_the_end_that_was_used_least_recently_goes_first_and_what_others_follow_stays() -> None:
    held = index(8)
    add(held, "", (1, 2, 3, 4))
    add(held, "", (1, 2, 5, 6))
    assert held.tokens == 6
    held.find("", (1, 2, 3, 4))
    add(held, "", (1, 2, 7, 8, 9))  # one too many: 5 6 goes
    assert [held.length("", (1, 2, *rest)) for rest in ((3, 4), (5, 6), (7, 8, 9))] == [4, 2, 5]
    assert (held.tokens, held.evicted) == (7, 2)
    add(held, "b", (1, 2, 3, 4, 5, 6, 7, 8, 9))
    assert held.length("", (1, 2)) == 0
    assert held.length("b", (1, 2, 3, 4, 5, 6, 7, 8, 9)) == 8
    assert held.evicted == 9


def test_a_piece_that_cannot_be_made_leaves_what_was_held() -> None:
    held = index(8)
    add(held, "", (1, 2, 3, 4))

    def broken(start: int, end: int) -> Tokens:
        raise MemoryError

    for tokens in ((1, 2, 9), (7, 7), (1, 2, 3, 4, 5)):
        with pytest.raises(MemoryError):
            held.add("", tokens, broken)
    assert held.tokens == held.length("", (1, 2, 3, 4)) == 4
    add(held, "", (1, 2, 9))
    assert held.find("", (1, 2, 9)) == [((1, 2), 2), ((9,), 1)]
