"""Plain values as MessagePack: they come back, and what comes in is bounded before it is built."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervision.errors import ProtocolError
from supervision.runtime import Address
from supervision.runtime.packed import (
    GROWTH,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    SLACK,
    measure,
    pack,
    unpack,
)

parts = st.text("abcAB09_.:-", min_size=1, max_size=64).filter(lambda part: part not in {".", ".."})
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.builds(Address, parts, parts, st.integers(0, 65535))
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.lists(inner, max_size=20).map(tuple)
        | st.dictionaries(st.text(max_size=10), inner, max_size=20)
    ),
    max_leaves=30,
).filter(lambda value: depth(value) <= MAX_DEPTH)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list | tuple) else 0


@given(values)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    back = unpack(pack(value))
    assert back == value
    assert repr(back) == repr(value)  # lists are lists, tuples are tuples, True is no 1


def grown(payload: bytes) -> int:
    """The most bytes that were held at once, beside `payload`, while it was read."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            kept: object = unpack(payload)
        except ProtocolError as error:
            kept = error
        assert kept is kept  # it counts for as long as it is held
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def long(lead: bytes, many: int) -> bytes:
    return lead + many.to_bytes(2, "big")


MANY = MAX_ELEMENTS - 2
BOMBS = {
    "empty dicts": long(b"\xdc", MANY) + b"\x80" * MANY,
    "empty lists": long(b"\xdc", MANY) + b"\x90" * MANY,
    "dicts of one": long(b"\xdc", 5000) + b"\x81\xa0\xc0" * 5000,
    "dict of dicts": long(b"\xde", 5000)
    + b"".join(b"\xa2%c%c\x80" % (48 + n // 128, n % 128) for n in range(5000)),
    "empty tuples": long(b"\xdc", 5000) + b"\x91\xc7\x00\x02" * 5000,
    "numbers": long(b"\xdc", MANY) + b"\xcd\x7f\xff" * MANY,
    "short texts": long(b"\xdc", 5000) + b"\xa2\xd0\xb0" * 5000,
    "addresses": long(b"\xdc", 5000) + b"".join(b"\xc7\x08\x01%04d/b/0" % n for n in range(5000)),
    "one long text": b"\xdb\x00\x0f\x00\x00" + "\U0001f600".encode() * (0xF0000 // 4),
    "long bytes": b"\xc6\x00\x0f\x00\x00" + bytes(0xF0000),
    "a list that claims all there is": b"\xdd\xff\xff\xff\xff",
    "lists that claim it one in another": (b"\xdd\x00\x00\x3f\x00" * 40),
    "a text that claims all there is": b"\xdb\xff\xff\xff\xff",
    "a deep one": b"\x91" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS.keys())
def test_what_comes_in_grows_no_further_than_its_factor(payload: bytes) -> None:
    assert grown(payload) <= GROWTH * len(payload) + SLACK


@given(st.binary(max_size=2000) | values.map(pack))
@example(b"\xdf\x00\x01\x00\x00")
def test_any_bytes_are_a_value_or_an_error_of_ours_within_the_bound(payload: bytes) -> None:
    assert grown(payload) <= GROWTH * len(payload) + SLACK


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"", "ends in the middle"),
        (b"\x92\xc0", "ends in the middle"),
        (b"\xcd\x01", "says all in 3"),
        (b"\xc0\xc0", "says all in 1"),
        (b"\xc1", "no MessagePack"),
        (b"\x81\x01\xc0", "is no text"),
        (b"\x81\xc4\x01a\xc0", "is no text"),
        (b"\xd4\x03a", "extension that nobody knows"),
        (b"\xd6\xff\x00\x00\x00\x00", "extension that nobody knows"),  # a point in time
        (b"\xc7\xff\x01" + b"a" * 255, "extension that nobody knows"),
        (b"\xd4\x02a", "extension that nobody knows"),
        (b"\xc7\x03\x01a/b", "no address"),
        (b"\xc7\x05\x01a/b/x", "no address"),
        (b"\xc7\x06\x01../a/0", "no part of an address"),
        (b"\xc7\x00\x02", "in no array"),
        (b"\x81\xa1a\xc7\x00\x02", "in no array"),
        (b"\x92\xc0\xc7\x00\x02", "begins in its middle"),
        (b"\xa1\xff", "not MessagePack"),
        (b"\xdd\x00\x00\x40\x00", f"more than {MAX_ELEMENTS} elements"),
        (b"\xdf\x00\x00\x20\x00", f"more than {MAX_ELEMENTS} elements"),
        (b"\x91" * (MAX_DEPTH + 1) + b"\xc0", f"deeper than {MAX_DEPTH}"),
        (bytes(MAX_BYTES + 1), f"more than the {MAX_BYTES}"),
    ],
)
def test_what_is_no_plain_value_is_told_so(payload: bytes, told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        unpack(payload)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({1: 2}, "is no text"),
        ({1, 2}, "a set is nothing"),
        (object(), "a object is nothing"),
        ([1j], "a complex is nothing"),
        (2**64, "a number of more than 64 bits"),
        ("\ud800", "not to be said"),
        ([0] * MAX_ELEMENTS, "elements"),
        (bytes(MAX_BYTES), "more than the"),
    ],
)
def test_nothing_is_said_that_would_be_refused(value: object, told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        pack(value)


def test_what_holds_itself_is_not_said() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ProtocolError):
        pack(value)


@given(values)
def test_all_that_msgpack_writes_of_it_is_measured_to_its_end(value: Any) -> None:
    """The walk over the bytes is ours, and agrees with the package that reads them."""
    payload = pack(value)
    measure(payload)
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_BYTES)
    unpacker.feed(payload)
    unpacker.skip()
    assert unpacker.tell() == len(payload)
    for cut in {0, len(payload) // 2, len(payload) - 1}:
        with pytest.raises(ProtocolError):
            measure(payload[:cut])
