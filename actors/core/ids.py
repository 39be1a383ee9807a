"""Names that sort by the time they were made. Pure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

_VERSION_7 = 7 << 76
_VARIANT_10 = 2 << 62
_RANDOM_BITS = (0xFFF << 64) | ((1 << 62) - 1)


def job_id(
    clock: Callable[[], int] = time.time_ns, random: Callable[[int], bytes] = os.urandom
) -> str:
    """A UUID of version 7 as text: 48 bits of milliseconds since 1970, then 74 random bits.

    Rows keyed by it land on the last page of their index; a random key dirties a page a row,
    which costs 2 to 4 KB of WAL a request. Two ids of one millisecond have no order.

    Args:
        clock: nanoseconds since 1970.
        random: that many random bytes.

    Source: RFC 9562, section 5.7.
    """
    milliseconds = (clock() // 1_000_000) & 0xFFFF_FFFF_FFFF
    value = (
        (milliseconds << 80)
        | _VERSION_7
        | _VARIANT_10
        | (int.from_bytes(random(10), "big") & _RANDOM_BITS)
    )
    return _text(value)


def first_id(at_ns: int) -> str:
    """The lowest id that `job_id` can draw at that time, in nanoseconds since 1970: all that
    were drawn in an earlier millisecond sort before it."""
    milliseconds = max(0, at_ns // 1_000_000) & 0xFFFF_FFFF_FFFF
    return _text((milliseconds << 80) | _VERSION_7 | _VARIANT_10)


def _text(value: int) -> str:
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
