"""The headers of a good answer that depend on what it is: of the first item of it. Pure."""

from __future__ import annotations

from typing import Final

from actors.contracts import Chunk, Completed
from tether.http.errors import Headers
from tether.http.limit_headers import limit_headers

#: Of draft-ietf-httpapi-idempotency-key-header's kind; Stripe's name for it.
REPLAYED: Final = (b"idempotency-replayed", b"true")


def answer_headers(first: Chunk | Completed) -> Headers:
    """What is said of an answer before it."""
    headers = limit_headers(first.limits)
    return [*headers, REPLAYED] if first.replayed else headers
