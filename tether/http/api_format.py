"""The protocol of an API's format: what an API must know so that the exchange can speak it.

A format reads a body into a `ParsedRequest` and gives the `Encoder` that says the answer. Both
are pure: bytes and contracts in, bytes out.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from actors.contracts import Chunk, Completed, Input, Sampling
from supervision.errors import TetherError
from tether.http.caller import HttpCaller


class Encoder(Protocol):
    """How one answer is said. `first` tells whether nothing has been said yet."""

    content_type: bytes

    def whole(self, item: Completed) -> bytes:
        """The body of an answer that is not streamed."""
        ...

    def part(self, item: Chunk, *, first: bool) -> bytes:
        """The bytes of a chunk; may be empty when it holds no text yet."""
        ...

    def end(self, item: Completed, *, first: bool) -> bytes:
        """The last bytes of a stream that ended well."""
        ...

    def broken(self, error: TetherError) -> bytes:
        """The last bytes of a stream that broke; never to be taken for a good end."""
        ...


class ParsedRequest(NamedTuple):
    """One request, understood. `retry_token`, `correlation_id` and `trace_id` are empty unless
    the body names them; `fingerprint` is, if the digest of the whole body will do.
    `max_tokens_given`: the client has said it, and it isn't the door's default."""

    model_ref: str
    input: Input
    sampling: Sampling
    stream: bool
    encoder: Encoder
    retry_token: str = ""
    correlation_id: str = ""
    trace_id: str = ""
    fingerprint: bytes = b""
    max_tokens_given: bool = True


class ApiFormat(Protocol):
    """One API. `route` is its name in metrics, `endpoint` that of its idempotency keys: one key
    sent to two of them is two requests."""

    route: str
    endpoint: str

    def read(
        self, body: bytes, headers: dict[bytes, bytes], caller: HttpCaller, request_id: str
    ) -> ParsedRequest:
        """What `body` asks for; `request_id` is the id of the answer.

        Raises:
            BadRequest: the body is not what this API takes; `param` says where.
        """
        ...
