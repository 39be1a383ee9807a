"""Names of a request: its id, its trace.

Ids are time-ordered like UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits, as 32
hex digits. Rows keyed by them land on neighbouring pages of an index, and the same digits are a
valid W3C trace id, so one draw names the request everywhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from random import getrandbits

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def new_id(now: Callable[[], float] = time.time) -> str:
    """32 hex digits, unique and in the order of time."""
    return f"{int(now() * 1000) & 0xFFFFFFFFFFFF:012x}{getrandbits(80):020x}"


def clean_request_id(value: bytes) -> str | None:
    """The client's `x-request-id` if it may be echoed and logged: 1 to 128 plain characters."""
    return value.decode("ascii") if _REQUEST_ID.fullmatch(value) else None


def new_traceparent(trace_id: str) -> str:
    """A root span of this request, not sampled."""
    return f"00-{trace_id}-{getrandbits(64) or 1:016x}-00"


def continue_trace(value: bytes) -> str | None:
    """The `traceparent` of our span below the caller's, or None if theirs is invalid and must
    be ignored (W3C Trace Context, section 3.2.2): version ff, all zeros, or a version 00 with
    something after the flags."""
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None:
        return None
    version, trace, parent, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more) or not (trace.strip(b"0")):
        return None
    if not parent.strip(b"0"):
        return None
    sampled = int(flags, 16) & 1
    return f"00-{trace.decode()}-{getrandbits(64) or 1:016x}-{sampled:02x}"
