"""Decoding of JSON bodies into Structs, with errors that say where."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from supervision.errors import BadRequest

T = TypeVar("T")
MOST_SAID: Final = 300  # characters of what the decoder says, which quotes what was sent
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(.+)`")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """`body` as the decoder's type.

    Raises:
        BadRequest: the JSON is malformed (says at which byte) or doesn't fit (says at which
            path, also as `param`).
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        if len(text) > 2 * MOST_SAID:
            text = f"{text[:MOST_SAID]}…{text[-MOST_SAID:]}"
        place = _PLACE.search(text)
        path = place.group(1) if place else ""
        missing = _MISSING.search(text)
        if missing:
            path = f"{path}.{missing.group(1)}" if path else missing.group(1)
        reason = _PLACE.sub("", text)[:MOST_SAID]
        raise BadRequest(
            f"{path or 'the body'}: {reason[:1].lower()}{reason[1:]}", param=path or None
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.strip():
            raise BadRequest("the body is empty; send a JSON object") from None
        raise BadRequest(f"the body is no JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
