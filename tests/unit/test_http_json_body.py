"""What is said of a body that doesn't fit."""

from __future__ import annotations

import msgspec
import pytest

from supervision.errors import BadRequest
from tether.http.embeddings import EmbeddingsBody
from tether.http.json_body import MOST_SAID, decode

DECODER = msgspec.json.Decoder(EmbeddingsBody)


def test_a_body_that_does_not_fit_is_told_where() -> None:
    with pytest.raises(BadRequest) as caught:
        decode(DECODER, b'{"model":"a","input":"b","encoding_format":"hex"}')
    assert caught.value.param == "encoding_format"
    assert caught.value.message.startswith("encoding_format: invalid enum value 'hex'")


def test_of_a_large_value_little_is_said() -> None:
    value = b"x" * 1_000_000
    with pytest.raises(BadRequest) as caught:
        decode(DECODER, b'{"model":"a","input":"b","encoding_format":"' + value + b'"}')
    assert caught.value.param == "encoding_format"
    assert len(caught.value.message) < 2 * MOST_SAID
