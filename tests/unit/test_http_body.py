"""Bodies of requests: put together, bounded, left."""

from __future__ import annotations

from typing import Any

import pytest

from supervision.errors import (
    BadRequest,
    BodyTooLarge,
    Cancelled,
)
from tether.http.body import read_body


def receiver(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_body_is_put_together() -> None:
    receive = receiver(part(b"ab", True), part(b"", True), part(b"cd", False))
    assert await read_body(receive, {}, 4) == b"abcd"


async def test_body_above_the_limit() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(receiver(part(b"abcde", False)), {}, 4)
    with pytest.raises(BodyTooLarge):  # in chunks: not read to its end
        await read_body(receiver(*[part(b"ab", True)] * 3), {}, 4)
    with pytest.raises(BodyTooLarge):  # declared: not even begun
        await read_body(receiver(), {b"content-length": b"5"}, 4)


async def test_body_of_a_client_that_leaves() -> None:
    with pytest.raises(Cancelled):
        await read_body(receiver(part(b"ab", True), {"type": "http.disconnect"}), {}, 4)


async def test_compressed_body_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        await read_body(receiver(), {b"content-encoding": b"gzip"}, 4)
    assert caught.value.param == "content-encoding"
