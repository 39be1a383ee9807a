"""Plain values as MessagePack within bounds, and back.

Plain are None, booleans, whole numbers of 64 bits, floats, text, bytes, lists, tuples, dicts whose
keys are text, and addresses. Two extension types are spoken: `ADDRESS` holds the text of one, and
`TUPLE`, empty, comes first in an array that is a tuple.

What comes in is measured before one object of it is made: msgpack makes an array when its header
says how many elements follow, so a few bytes could claim gigabytes. A payload that passed takes, as
objects, at most `GROWTH` bytes for each of its own, and `SLACK` more.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from supervision.errors import ProtocolError
from supervision.runtime.address import Address

MAX_BYTES: Final = 1 << 20  # of one payload
MAX_ELEMENTS: Final = 16_384  # in it, whatever holds them; a key and its value are two
MAX_DEPTH: Final = 16  # of what holds what
GROWTH: Final = 100  # an empty dict is one byte there and 64 here, with a place in a list 72
SLACK: Final = 8192  # bytes: msgpack's own stack, an error and its sentence

ADDRESS: Final = 1
TUPLE: Final = 2
_MAX_ADDRESS: Final = 140  # bytes: two parts of 64, five digits, two slashes

_SKIP, _TEXT, _ARRAY, _MAP, _EXTENSION, _NOTHING = range(6)
_HOLDERS: Final = (_ARRAY, _MAP)
_TUPLE: Final = msgpack.ExtType(TUPLE, b"")


def _forms() -> tuple[tuple[int, int, int], ...]:
    """By its first byte, what a value is: kind, bytes of its length, length besides."""
    forms = [(_SKIP, 0, 0)] * 256  # small numbers, None, False, True
    for lead in range(0x80, 0xC0):
        if lead < 0x90:
            forms[lead] = (_MAP, 0, lead & 15)
        elif lead < 0xA0:
            forms[lead] = (_ARRAY, 0, lead & 15)
        else:
            forms[lead] = (_TEXT, 0, lead & 31)
    forms[0xC1] = (_NOTHING, 0, 0)
    for power, width in enumerate((1, 2, 4)):
        forms[0xC4 + power] = (_SKIP, width, 0)  # bytes
        forms[0xC7 + power] = (_EXTENSION, width, 0)
        forms[0xD9 + power] = (_TEXT, width, 0)
    for power, width in enumerate((2, 4)):
        forms[0xDC + power] = (_ARRAY, width, 0)
        forms[0xDE + power] = (_MAP, width, 0)
    forms[0xCA], forms[0xCB] = (_SKIP, 0, 4), (_SKIP, 0, 8)  # floats
    for power in range(4):
        forms[0xCC + power] = forms[0xD0 + power] = (_SKIP, 0, 1 << power)  # whole numbers
    for power in range(5):
        forms[0xD4 + power] = (_EXTENSION, 0, 1 << power)
    return tuple(forms)


_FORMS: Final = _forms()


def pack(value: object, translated: Callable[[object], object] | None = None) -> bytes:
    """`value` as bytes; `translated` makes an address of what stands for one.

    Raises:
        ProtocolError: something in it isn't plain, or it is beyond a bound.
    """

    def plain(found: object) -> object:
        if type(found) is tuple:
            return [_TUPLE, *found]
        address = found if translated is None else translated(found)
        if type(address) is Address:
            return msgpack.ExtType(ADDRESS, str(address).encode())
        kind = "number of more than 64 bits" if type(found) is int else type(found).__name__
        raise ProtocolError(f"a {kind} is nothing that a system message may hold")

    try:
        payload: bytes = msgpack.packb(value, default=plain, strict_types=True)
    except (ValueError, OverflowError, TypeError) as error:
        raise ProtocolError(f"not to be said in a system message: {error}") from error
    measure(payload)
    return payload


def unpack(payload: bytes, place: Callable[[Address], object] = lambda address: address) -> Any:
    """The value that `pack` wrote; equal keys of a dict are one, and `place` makes of each address
    what it is to be.

    Raises:
        ProtocolError: it is none, or beyond a bound.
    """
    measure(payload)

    def extension(code: int, content: bytes) -> object:
        if code == TUPLE and not content:
            return _TUPLE
        if code == ADDRESS:
            return place(Address.parse(content.decode()))  # a ValueError is told as any other
        raise ProtocolError("a system message holds an extension that nobody knows")

    try:
        value = msgpack.unpackb(
            payload,
            raw=False,
            use_list=True,
            strict_map_key=True,
            ext_hook=extension,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=_MAX_ADDRESS,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not MessagePack: {str(error)[:200]}") from error
    return _with_tuples(value)


def measure(payload: bytes) -> None:
    """Walks the bytes of one value, and makes nothing of them.

    Raises:
        ProtocolError: they are no plain value, or one beyond a bound.
    """
    size = len(payload)
    if size > MAX_BYTES:
        raise ProtocolError(f"{size} bytes are more than the {MAX_BYTES} of a system message")
    left, keyed = [1], [False]  # values still to come at each level; with keys among them?
    at = elements = 0
    while left:
        if not left[-1]:
            left.pop()
            keyed.pop()
            continue
        is_key = keyed[-1] and not left[-1] & 1
        left[-1] -= 1
        elements += 1
        if at >= size:
            raise ProtocolError(f"a system message of {size} bytes ends in the middle")
        kind, width, length = _FORMS[payload[at]]
        at += 1
        if width:
            length = int.from_bytes(payload[at : at + width], "big")
            at += width
        if is_key and kind != _TEXT:
            raise ProtocolError("a key in a system message is no text")
        if kind in _HOLDERS:
            many = length << (kind == _MAP)
            if elements + many > MAX_ELEMENTS:
                raise ProtocolError(f"a system message holds more than {MAX_ELEMENTS} elements")
            if len(left) > MAX_DEPTH:
                raise ProtocolError(f"a system message is nested deeper than {MAX_DEPTH}")
            left.append(many)
            keyed.append(kind == _MAP)
        elif kind == _EXTENSION:
            if at >= size or payload[at] not in (ADDRESS, TUPLE) or length > _MAX_ADDRESS:
                raise ProtocolError("a system message holds an extension that nobody knows")
            at += length + 1
        elif kind == _NOTHING:
            raise ProtocolError("a system message holds a byte that is no MessagePack")
        else:
            at += length
    if at != size:
        raise ProtocolError(f"a system message of {size} bytes says all in {at}")


def _with_tuples(value: Any) -> Any:
    """`value` with tuples where they are meant; at most `MAX_DEPTH` deep."""
    if type(value) is list:
        for at, one in enumerate(value):
            if one is not _TUPLE:
                value[at] = _with_tuples(one)
            elif at:
                raise ProtocolError("a tuple in a system message begins in its middle")
        return tuple(value[1:]) if value and value[0] is _TUPLE else value
    if type(value) is dict:
        for key, one in value.items():
            value[key] = _with_tuples(one)
    elif value is _TUPLE:
        raise ProtocolError("a tuple in a system message is in no array")
    return value
