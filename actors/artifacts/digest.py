"""SHA-256 digests, and the address of an artifact: `sha256:` and 64 hexadecimal digits. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final

from msgspec import Meta

from supervision.errors import BadRequest

HEX: Final = r"^[0-9a-f]{64}\Z"
PREFIX: Final = "sha256:"
SOURCE: Final = "artifact:"  # in cluster.toml: source = "artifact:sha256:…"

Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
Content = bytes | bytearray | memoryview


def of(content: Content) -> str:
    """The SHA-256 of `content` in hexadecimal digits. Lets other threads run meanwhile."""
    return hashlib.sha256(content).hexdigest()


def address(digest: str) -> str:
    """What users write for the artifact whose manifest has this digest."""
    return PREFIX + digest


def parse(text: str) -> str:
    """The digest in an address, or in a model's `source`.

    Raises:
        BadRequest: it is none.
    """
    bare = text.removeprefix(SOURCE)
    found = bare.removeprefix(PREFIX)
    if not bare.startswith(PREFIX) or not re.match(HEX, found):
        raise BadRequest(f"{text!r} is no address of an artifact; it is sha256: and 64 hex digits")
    return found
