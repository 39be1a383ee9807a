"""What clients are told of their limits."""

from __future__ import annotations

import msgspec
import pytest

from actors.contracts import LimitState
from supervision.errors import RateLimited
from supervision.runtime.codec import decode_error, encode_error
from tether.http import errors
from tether.http.limit_headers import duration, limit_headers, state_in

STATE = LimitState(
    limit_requests=100,
    remaining_requests=50,
    reset_requests_s=29.4,
    limit_tokens=2000,
    remaining_tokens=0,
    reset_tokens_s=361.2,
)


def test_openai_and_the_ietf() -> None:
    assert dict(limit_headers(STATE)) == {
        b"x-ratelimit-limit-requests": b"100",
        b"x-ratelimit-remaining-requests": b"50",
        b"x-ratelimit-reset-requests": b"29.4s",
        b"x-ratelimit-limit-tokens": b"2000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"6m2s",
        b"ratelimit-policy": b'"requests";q=100;w=60, "tokens";q=2000;w=60',
        b"ratelimit": b'"requests";r=50;t=30, "tokens";r=0;t=362',
    }


def test_nothing_is_said_of_what_has_no_limit() -> None:
    assert limit_headers(None) == limit_headers(LimitState()) == []
    one = dict(limit_headers(LimitState(limit_tokens=5, remaining_tokens=5)))
    assert one[b"ratelimit"] == b'"tokens";r=5;t=0'
    assert b"x-ratelimit-limit-requests" not in one


def test_they_come_with_an_error_over_the_wire() -> None:
    error = RateLimited("too many", retry_after_s=3)
    error.details |= msgspec.structs.asdict(STATE)
    told = decode_error(encode_error(error))
    assert state_in(told) == STATE
    _, headers, _ = errors.answer(told)
    assert set(limit_headers(STATE)) <= set(headers)
    assert state_in(RateLimited("a model's own")) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, b"0ms"),
        (0.0123, b"13ms"),
        (1, b"1s"),
        (59.5, b"59.5s"),
        (60, b"1m0s"),
        (3660, b"1h1m0s"),
    ],
)
def test_durations_are_those_of_openai(seconds: float, said: bytes) -> None:
    assert duration(seconds) == said
