"""How inputs are changed: as bytes, or as the MessagePack or the JSON that they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgpack

_EDGES = (0, 1, 0x7F, 0x80, 0xC1, 0xFF)
_HEADS = (  # of MessagePack, that claim much
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xc9\x00\x00\x00\x01\x01",
    b"\xd4\x02\x00",
    b"\x91" * 40,
    b"\x80" * 64,
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 - 1, -(2**63)),
    *(
        0.5,
        float("inf"),
        float("nan"),
        "",
        "x" * 300,
        "\x00",
        "../..",
        "n1/admin/1900",
        "__class__",
    ),
    *(b"", b"\xff" * 9, [], {}, [[]], {"": {}}, [None] * 40),
    *(msgpack.ExtType(1, b"n1/12-ab/0"), msgpack.ExtType(1, b"/"), msgpack.ExtType(2, b"")),
    msgpack.ExtType(7, b"x"),
)
_TEXTS = (  # of JSON and TOML, that are much, or are read in several ways
    *(
        b"[",
        b"{",
        b'{"a":',
        b"[[],",
        b'"",',
        b"0,",
        b"{},",
        b"[],",
        b"a.",
        b"[a.",
        b"\\",
        b"(",
        b"((a*)*",
    ),
    *(b"9" * 400, b"-" + b"9" * 5000, b"1e999", b"-1e-999", b"NaN", b"Infinity", b"-0", b"null"),
    *(
        b'"\\ud800"',
        b'"\\u0000"',
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\0",
        b"\n",
        b"1979-05-27",
    ),
)
Change = Callable[[bytes, Random], bytes]


def bytes_changed(data: bytes, random: Random) -> bytes:
    """`data` with a few bytes exchanged, dropped, doubled or put in."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(out) + 1)
        what = random.randrange(7)
        if what == 0:
            out[at:at] = random.choice(_HEADS)
        elif what == 1:
            out[at : at + random.randrange(1, 9)] = b""
        elif what == 2:
            out[at:at] = out[at : at + random.randrange(1, 33)] * random.choice((1, 2, 50))
        elif what == 3:
            out[at:at] = random.randbytes(random.randrange(1, 9))
        elif what == 4:
            del out[at:]
        elif at < len(out):
            out[at] = random.choice(_EDGES) if what == 5 else out[at] ^ (1 << random.randrange(8))
    return bytes(out)


def packed_changed(data: bytes, random: Random) -> bytes:
    """`data` with one value in it exchanged, dropped or doubled; as bytes, if it is no MessagePack,
    and now and then if it is."""
    if random.random() < 0.3:
        return bytes_changed(data, random)
    try:
        value = msgpack.unpackb(data, strict_map_key=False, timestamp=0)
        return bytes(msgpack.packb(_changed(value, random, 0)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return bytes_changed(data, random)


def _changed(value: Any, random: Random, depth: int) -> Any:
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        what = random.random()
        if what < 0.7:
            return [*value[:at], _changed(value[at], random, depth + 1), *value[at + 1 :]]
        if what < 0.8:
            return value[:at] + value[at + 1 :]
        return value + value[at:] * random.choice((1, 1, 30))
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        return {**value, key: _changed(value[key], random, depth + 1)}
    if isinstance(value, str | bytes) and value and random.random() < 0.5:
        cut = random.randrange(len(value))
        return value[:cut] if random.random() < 0.5 else value + value[cut:] * 3
    if isinstance(value, int) and random.random() < 0.5:
        return value + random.choice((-1, 1)) if 0 < value < 2**63 else 1
    return random.choice(_VALUES)


def framed(change: Change, head: bytes) -> Change:
    """As `change`, of what follows `head`, which stays as it is in nine of ten inputs."""

    def changed(data: bytes, random: Random) -> bytes:
        if data.startswith(head) and random.random() < 0.9:
            return head + change(data[len(head) :], random)
        return bytes_changed(data, random)

    return changed


def json_changed(data: bytes, random: Random) -> bytes:
    """`data` with one value in it exchanged, dropped or doubled; as bytes, if it is no JSON, and
    now and then if it is."""
    if random.random() < 0.3:
        return _text_changed(data, random)
    try:
        value = _changed(json.loads(data), random, 0)
        return json.dumps(value, default=_said).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _text_changed(data, random)


def _text_changed(data: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        return bytes_changed(data, random)
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_TEXTS) + data[at + random.choice((0, 0, 1, 9)) :]


def _said(value: Any) -> str:
    return repr(value)


def grown(change: Change, most: int) -> Change:
    """As `change`; one input in fifty has a part of it repeated, to as many as `most` bytes."""

    def changed(data: bytes, random: Random) -> bytes:
        if random.random() >= 0.02:
            return change(data, random)
        at = random.randrange(len(data) + 1)
        part = data[at : at + random.choice((1, 2, 3, 8, 40, 200))]
        if random.random() < 0.5:
            part = random.choice(_TEXTS)
        room = max(0, most - len(data)) // max(1, len(part))
        return data[:at] + part * min(room, random.choice((300, 5000, most))) + data[at:]

    return changed
