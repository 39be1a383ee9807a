"""The fingerprint of a body: two requests with one idempotency key are the same if theirs is.

`stream` and `stream_options` say how an answer is to come and not what it is, so they don't count:
what was asked for whole can be fetched as a stream, and the other way round. Neither do the order
of the fields and the white space around them; all else is compared byte for byte, also what isn't
looked at here. Pure.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from supervision.unreadable import UNREADABLE

_HOW: Final = frozenset(("stream", "stream_options"))
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def fingerprint(body: bytes, endpoint: str) -> bytes:
    """32 bytes. `endpoint` takes part, so nothing of another one is the same."""
    digest = blake2b(digest_size=32, person=endpoint.encode())
    try:
        fields = _fields.decode(body)
    except UNREADABLE:
        digest.update(body)
        return digest.digest()
    for name in sorted(fields.keys() - _HOW):
        for part in (name.encode("utf-8", "surrogatepass"), bytes(fields[name])):
            digest.update(b"%d:" % len(part))
            digest.update(part)
    return digest.digest()
