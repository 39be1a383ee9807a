"""The bounds of sampling parameters, and the seed of a request that names none. Pure."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from actors.contracts import Sampling
from supervision.errors import BadRequest

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024
_INT64 = 1 << 63


def validated(sampling: Sampling, context: int) -> Sampling:
    """`sampling`, if every value is in range; `context` is the model's, in tokens.

    Raises:
        BadRequest: the first value that is not, with `param`.
    """
    if sampling.max_tokens < 1:
        raise BadRequest(
            f"max_tokens is {sampling.max_tokens}; ask for at least 1", param="max_tokens"
        )
    if sampling.max_tokens > context:
        raise BadRequest(
            f"max_tokens is {sampling.max_tokens}, more than the model's context of {context}",
            param="max_tokens",
        )
    # written so that nan fails, too
    if not 0.0 <= sampling.temperature <= 2.0:
        raise BadRequest(
            f"temperature is {sampling.temperature}; it must be from 0 to 2", param="temperature"
        )
    if not 0.0 < sampling.top_p <= 1.0:
        raise BadRequest(
            f"top_p is {sampling.top_p}; it must be above 0 and at most 1", param="top_p"
        )
    if sampling.stop:
        _check_stops(sampling.stop)
    if sampling.seed is not None and not -_INT64 <= sampling.seed < _INT64:
        raise BadRequest(f"seed is {sampling.seed}; it must fit 64 bits", param="seed")
    return sampling


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"{len(stops)} stop strings; at most {MAX_STOPS} are taken", param="stop")
    for stop in stops:
        if not stop:
            raise BadRequest("a stop string is empty; leave it out", param="stop")
        if len(stop) > MAX_STOP_CHARACTERS:
            raise BadRequest(
                f"a stop string has {len(stop)} characters; at most {MAX_STOP_CHARACTERS} are "
                "taken",
                param="stop",
            )


def seeded(sampling: Sampling, tenant_id: str, retry_token: str) -> Sampling:
    """`sampling` with a seed. A missing one is drawn from the request's own identity, so that
    a gateway which has lost its memory draws the same one and the answer can be repeated."""
    if sampling.seed is not None:
        return sampling
    digest = blake2b(f"{tenant_id}\0{retry_token}".encode(), digest_size=8).digest()
    return msgspec.structs.replace(sampling, seed=int.from_bytes(digest, "big") >> 1)
