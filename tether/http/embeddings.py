"""`POST /v1/embeddings`: OpenAI's vectors of texts.

Shapes: `CreateEmbeddingResponse` of the `openai` package. `input` is a string or a list of strings;
lists of token ids are refused, as their numbers mean something to one tokenizer only.
"""

from __future__ import annotations

import base64
import struct
from typing import Any, Literal

import msgspec

from actors.contracts import Chunk, Completed, EmbeddingInput, Sampling
from supervision.errors import BadRequest, TetherError
from tether.http import errors, json_body
from tether.http.api_format import ParsedRequest
from tether.http.caller import HttpCaller

_json = msgspec.json.Encoder().encode
MOST_TEXTS = 256
_FLOAT = 4  # bytes
SAMPLING = Sampling(max_tokens=1, temperature=0.0, seed=0)


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


_decoder = msgspec.json.Decoder(EmbeddingsBody)


class EmbeddingsEncoder:
    """Says the vectors of `count` texts; there is nothing to stream."""

    content_type = b"application/json"

    __slots__ = ("_as_text", "_count", "_model")

    def __init__(self, model: str, count: int, *, as_text: bool) -> None:
        self._model = model
        self._count = count
        self._as_text = as_text

    def whole(self, item: Completed) -> bytes:
        raw = base64.b64decode(item.text)
        size = len(raw) // self._count
        parts = [raw[at : at + size] for at in range(0, self._count * size, size)]
        form = f"<{size // _FLOAT}f"
        vectors: list[Any] = (
            [base64.b64encode(part).decode() for part in parts]
            if self._as_text
            else [struct.unpack(form, part) for part in parts]
        )
        return _json(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": at, "embedding": vector}
                    for at, vector in enumerate(vectors)
                ],
                "model": self._model,
                "usage": {
                    "prompt_tokens": item.usage.prompt_tokens,
                    "total_tokens": item.usage.prompt_tokens,
                },
            }
        )

    def part(self, item: Chunk, *, first: bool) -> bytes:
        return b""

    def end(self, item: Completed, *, first: bool) -> bytes:
        return self.whole(item)

    def broken(self, error: TetherError) -> bytes:
        return errors.body(error)


class EmbeddingsFormat:
    """`POST /v1/embeddings`."""

    route = "embeddings"
    endpoint = "embeddings"

    def read(
        self, body: bytes, headers: dict[bytes, bytes], caller: HttpCaller, request_id: str
    ) -> ParsedRequest:
        asked = json_body.decode(_decoder, body)
        if not asked.model:
            raise BadRequest("model is empty; GET /v1/models lists them", param="model")
        if asked.dimensions is not None:
            raise BadRequest("dimensions is not supported here; leave it out", param="dimensions")
        texts = (asked.input,) if isinstance(asked.input, str) else tuple(asked.input)
        if not 0 < len(texts) <= MOST_TEXTS:
            raise BadRequest(
                f"input holds {len(texts)} texts; send 1 to {MOST_TEXTS}", param="input"
            )
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadRequest(
                    f"input[{at}] is no string; token ids are not supported", param="input"
                )
            if not text:
                raise BadRequest(f"input[{at}] is empty; send some text", param="input")
        encoder = EmbeddingsEncoder(
            asked.model, len(texts), as_text=asked.encoding_format == "base64"
        )
        return ParsedRequest(asked.model, EmbeddingInput(texts=texts), SAMPLING, False, encoder)
