"""Ids to text: never half a character, never a stop string, rebuilt by replaying."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engines.text import StopScanner, TextState, byte_table
from actors.errors import ModelUnusable
from tests.support.properties import examples

BYTES = tuple(bytes([b]) for b in range(256))


@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=40), st.data())
def test_pieces_make_up_the_text(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    state = TextState(BYTES)
    pieces = [state.push(byte)[0] for byte in raw]
    assert "".join(pieces) + state.flush() == text


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=40))
def test_broken_utf8_reads_as_python_reads_it(raw: bytes) -> None:
    state = TextState(BYTES)
    text = "".join(state.push(byte)[0] for byte in raw) + state.flush()
    assert text == raw.decode(errors="replace")


@settings(max_examples=examples(500), deadline=None)
@given(st.text("abc", max_size=30), st.text("abc", min_size=1, max_size=4), st.data())
def test_one_stop_string_cuts_exactly(text: str, stop: str, data: st.DataObject) -> None:
    scanner = StopScanner([stop])
    said, stopped, at = "", False, 0
    while at < len(text) and not stopped:
        size = data.draw(st.integers(1, 5))
        out, stopped = scanner.push(text[at : at + size])
        said += out
        at += size
        assert text.startswith(said)
    if not stopped:
        said += scanner.flush()
    assert said == text.split(stop)[0]
    assert stopped == (stop in text)


@settings(max_examples=examples(300), deadline=None)
@given(st.text("abcd", max_size=30), st.lists(st.text("abcd", min_size=1, max_size=4), max_size=4))
def test_no_stop_string_is_ever_said(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)
    said, stopped = "", False
    for char in text:
        out, stopped = scanner.push(char)
        said += out
        assert not any(stop in said for stop in stops)
        if stopped:
            break
    assert stopped == any(stop in text for stop in stops)
    assert said + scanner.flush() == text[: len(said)] or not stopped


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    scanner = StopScanner(["\n\nUser:"])
    assert scanner.push("hello\n") == ("hello", False)
    assert scanner.push("\nUs") == ("", False)
    assert scanner.push("age") == ("\n\nUsage", False)
    assert scanner.push("\n\nUser: x") == ("", True)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.integers(0, 255), max_size=30), st.data())
def test_a_replayed_state_goes_on_like_the_first(ids: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ids)))
    stops = ["ab", "\u00e9"]
    first, second = TextState(BYTES, stops), TextState(BYTES, stops)
    for token in ids[:cut]:
        assert first.push(token) == second.push(token)
    assert [first.push(t) for t in ids[cut:]] == [second.push(t) for t in ids[cut:]]
    assert first.flush() == second.flush()


def test_half_a_stop_string_is_said_at_the_end() -> None:
    state = TextState(BYTES, ["end."])
    assert [state.push(b)[0] for b in b"the en"] == ["t", "h", "", "e ", "", ""]
    assert state.flush() == "en"


def test_byte_fallback_tokenizers_are_understood() -> None:
    described = {
        "model": {"type": "BPE", "vocab": {"\u2581Hi": 0, "<0xC3>": 1, "<0xA9>": 2, "<s>": 3}},
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
    }
    table = byte_table(json.dumps(described), 5)
    assert table == (b" Hi", b"\xc3", b"\xa9", b"", b"")


def test_other_tokenizers_are_refused_in_a_sentence() -> None:
    described = {"model": {"vocab": {"a": 0}}, "decoder": {"type": "WordPiece"}}
    with pytest.raises(ModelUnusable, match="decodes by WordPiece"):
        byte_table(json.dumps(described), 1)
