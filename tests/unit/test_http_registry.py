"""Bodies of the registry's routes: numbers that no catalog can hold."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from supervision.errors import BadRequest
from tether.http import registry
from tether.http.json_body import decode

CARD = {"name": "org/m", "version": "1", "engine": "echo"}


@pytest.mark.parametrize(
    "said",
    [
        {"context": 10**30},
        {"context": -(2**64)},
        {"memory_mib": 1 << 31},
        {"memory_mib": -1},
        {"policy": {"max_tokens": 10**30}},
        {"policy": {"concurrency": -1}},
    ],
)
def test_a_number_that_is_too_large_is_the_clients_fault(said: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(registry._cards, json.dumps({**CARD, **said}).encode())
    assert caught.value.param in {
        "context",
        "memory_mib",
        "policy.max_tokens",
        "policy.concurrency",
    }


def test_what_a_catalog_can_hold_is_taken() -> None:
    said: Any = decode(registry._cards, json.dumps({**CARD, "memory_mib": registry.MOST}).encode())
    assert msgspec.msgpack.encode(said.memory_mib)
