"""Frames and greetings, however the bytes were cut."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.errors import ProtocolError
from supervision.runtime.refused_peers import MAX_STRANGERS, RefusedPeers
from supervision.runtime.wire import (
    ASK,
    HEADER,
    HELLO,
    MAX_GREETING,
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    REPLY,
    Framer,
    Greeting,
    OtherVersion,
    frame,
    greet,
    read_greeting,
    spoken,
)

LIMIT = 4096
frames = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=LIMIT - 9)),
    max_size=12,
)


@given(frames, st.data())
def test_any_cut_gives_the_same_frames(sent: list[tuple[int, int, bytes]], data: st.DataObject):
    stream = b"".join(frame(*one) for one in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    framer = Framer(LIMIT, first=LIMIT)
    got = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += framer.feed(stream[begin:end])
    assert got == sent


def test_byte_by_byte():
    framer = Framer()
    got = []
    for byte in frame(ASK, 7, b"payload"):
        got += framer.feed(bytes([byte]))
    assert got == [(ASK, 7, b"payload")]


@pytest.mark.parametrize("length", [0, 8, LIMIT + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_its_bytes_come(length: int):
    framer = Framer(LIMIT, first=LIMIT)
    assert framer.feed(frame(ASK, 1)) == [(ASK, 1, b"")]
    with pytest.raises(ProtocolError, match=str(length)):
        framer.feed(HEADER.pack(length, REPLY, 1))


def test_a_stranger_gets_little_memory():
    with pytest.raises(ProtocolError, match=str(MAX_GREETING)):
        Framer(LIMIT).feed(HEADER.pack(MAX_GREETING + 1, HELLO, 0))


def test_the_small_limit_ends_with_the_greeting_even_in_the_same_read():
    large = frame(ASK, 1, bytes(LIMIT - 9))
    hello = frame(HELLO, 0, b"x")
    assert len(Framer(LIMIT).feed(hello + large)) == 2
    framer = Framer(LIMIT)
    assert len(framer.feed(hello + large[:2000])) == 1
    assert framer.feed(large[2000:]) == [(ASK, 1, bytes(LIMIT - 9))]


def test_a_large_frame_in_small_pieces_is_not_quadratic():
    # 64 MiB in 4 KiB pieces: minutes if every piece copied what came before it.
    size = 64 << 20
    framer = Framer(size + 64, first=size + 64)
    stream = memoryview(frame(ASK, 1, bytes(size)))
    got = []
    for begin in range(0, len(stream), 4096):
        got += framer.feed(bytes(stream[begin : begin + 4096]))
    assert [len(payload) for _, _, payload in got] == [size]


def test_greeting():
    greeting = Greeting(PROTOCOL_VERSION, "n1", "n1/12-ab/0", 4096, 77)
    (kind, _, payload), *rest = Framer().feed(greet(greeting))
    assert (kind, rest) == (HELLO, [])
    assert read_greeting(payload) == greeting


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 1), (2, 1), 1),  # the next release
        ((2, 1), (1, 1), 1),  # the one before
        ((2, 1), (1, 0), 1),  # from before there was an oldest
        ((5, 4), (6, 5), 5),
        ((5, 4), (9, 2), 5),
    ],
)
def test_adjacent_releases_speak_the_newest_version_that_both_know(
    ours: tuple[int, int], theirs: tuple[int, int], both: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("supervision.runtime.wire.PROTOCOL_VERSION", ours[0])
    monkeypatch.setattr("supervision.runtime.wire.OLDEST_VERSION", ours[1])
    assert spoken(Greeting(theirs[0], "n1", "n1/12-ab/0", 4096, 77, theirs[1]), "n1") == both


@pytest.mark.parametrize(
    ("ours", "theirs", "here", "said"),
    [
        (
            (2, 2),
            (1, 1),
            "n1",
            "^node n2 speaks version 1 of the wire, this node version 2; upgrade it$",
        ),
        (
            (2, 2),
            (1, 0),
            "n1",
            "node n2 speaks version 1 of the wire, this node version 2; upgrade it",
        ),
        (
            (4, 3),
            (2, 1),
            "n1",
            "speaks versions 1 to 2 of the wire, this node versions 3 to 4; upgrade it",
        ),
        (
            (2, 2),
            (4, 3),
            "n1",
            "versions 3 to 4 of the wire, this node version 2; upgrade this node",
        ),
        ((2, 2), (3, 0), "n1", "version 3 of the wire, this node version 2; upgrade this node"),
        ((2, 2), (1, 1), "n2", "n2/12-ab/0 of this node .* use the release that started the node"),
    ],
)
def test_a_version_too_far_away_is_refused_and_both_are_named(
    ours: tuple[int, int],
    theirs: tuple[int, int],
    here: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("supervision.runtime.wire.PROTOCOL_VERSION", ours[0])
    monkeypatch.setattr("supervision.runtime.wire.OLDEST_VERSION", ours[1])
    greeting = Greeting(theirs[0], "n2", "n2/12-ab/0", 4096, 77, theirs[1])
    with pytest.raises(OtherVersion, match=said):
        spoken(greeting, here)


def test_what_the_release_before_reads_otherwise_is_another_version():
    """Version 1 had a job's fields one by one, version 2 pickles on the system road: what changes
    so raises both numbers, and the release before is refused."""
    assert (PROTOCOL_VERSION, OLDEST_VERSION) == (3, 3)
    with pytest.raises(OtherVersion, match=r"^node n2 speaks version 2 of the wire.*upgrade it$"):
        spoken(Greeting(2, "n2", "n2/12-ab/0", 4096, 77, 2), "n1")


def test_a_node_of_another_release_is_new_once():
    strangers = RefusedPeers()
    assert strangers.new("n2", 1)
    assert not strangers.new("n2", 1)
    assert strangers.new("n2", 3), "it was upgraded too far"
    assert strangers.new("n3", 1)
    strangers.forget("n2")
    strangers.forget("n2")
    assert strangers.new("n2", 1), "it went back"
    for n in range(2 * MAX_STRANGERS):
        strangers.new(f"m{n}", 1)
    assert len(strangers) == MAX_STRANGERS


def test_greetings_of_releases_before_and_after_are_read():
    before = msgspec.msgpack.encode([1, "n1", "n1/12-ab/0", 4096, 77])
    assert read_greeting(before) == Greeting(1, "n1", "n1/12-ab/0", 4096, 77, 0)
    after = msgspec.msgpack.encode([1, "n1", "n1/12-ab/0", 4096, 77, 1, "of a later release"])
    assert read_greeting(after) == Greeting(1, "n1", "n1/12-ab/0", 4096, 77, 1)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x90", b"\x01", b"GET / HTTP/1.1"])
def test_no_greeting(payload: bytes):
    with pytest.raises(ProtocolError):
        read_greeting(payload)
