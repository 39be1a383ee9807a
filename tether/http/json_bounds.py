"""Bounds of a JSON text, looked at before any object is built of it. Pure.

A decoder makes an object of each value, so four megabytes of `[],[],…` take a tenth of a second,
and a hundred megabytes. Here bytes are counted instead, at the speed of memory: what could be a
value is counted in all of the text, and only where that is too much, strings are taken out and the
rest is counted again.
"""

from __future__ import annotations

from typing import Final

from supervision.errors import BadRequest

MAX_BYTES: Final = 4 << 20
"""Of a text: for those that are longer nobody has shown that the looks are quick. A door takes no
longer bodies, whatever it is told."""
MAX_VALUES: Final = 32_768  # members of objects and elements of lists
MAX_DEPTH: Final = 64
SMALL: Final = 16 << 10  # bytes, in which there can't be enough to matter

_STRUCTURE: Final = b'"[]{},'
_OTHER: Final = bytes(set(range(256)) - set(_STRUCTURE))
_COMMAS_AND_OTHER: Final = bytes(set(range(256)) - set(b"[]{}"))
_CLOSING: Final = frozenset(b"]}")


def check(body: bytes) -> None:
    """
    Raises:
        BadRequest: more than `MAX_VALUES` values, or nested deeper than `MAX_DEPTH`. A text that is
            no JSON may pass, or be called either.
    """
    if len(body) <= SMALL:
        return  # and the decoder itself ends at a depth that harms nobody
    opened = body.count(b"[") + body.count(b"{")
    if opened <= MAX_DEPTH and opened + body.count(b",") <= MAX_VALUES:
        return
    structure = _without_strings(body)
    opened = structure.count(b"[") + structure.count(b"{")
    if opened + structure.count(b",") > MAX_VALUES:
        raise _too_many()
    if opened > MAX_DEPTH:
        _check_depth(structure)


def _without_strings(body: bytes) -> bytes:
    """The brackets and commas that are in no string."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = body.translate(None, _OTHER)
    if structure.count(b'"') > 4 * MAX_VALUES + 2:  # a name and a string for each
        raise _too_many()
    return b"".join(structure.split(b'"')[::2])


def _check_depth(structure: bytes) -> None:
    depth = 0
    for byte in structure.translate(None, _COMMAS_AND_OTHER):
        depth += -1 if byte in _CLOSING else 1
        if depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested too deeply: more than {MAX_DEPTH} deep")


def _too_many() -> BadRequest:
    return BadRequest(
        f"the body holds too many values: more than {MAX_VALUES}; send fewer in one request"
    )
