"""Which bodies are the same request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tether.http.fingerprint import fingerprint

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1}


def of(body: dict[str, Any], endpoint: str = "chat") -> bytes:
    return fingerprint(json.dumps(body).encode(), endpoint)


def test_how_an_answer_comes_is_no_other_request() -> None:
    same = of(BODY)
    assert of({**BODY, "stream": True}) == of({**BODY, "stream": False}) == same
    assert of({**BODY, "stream": True, "stream_options": {"include_usage": True}}) == same
    assert of(dict(reversed(BODY.items()))) == same
    assert fingerprint(json.dumps(BODY, indent=2).encode(), "chat") != b""


@pytest.mark.parametrize(
    "other",
    [
        {**BODY, "model": "n"},
        {**BODY, "seed": 2},
        {**BODY, "user": "u"},
        {k: v for k, v in BODY.items() if k != "seed"},
        {**BODY, "messages": [{"role": "user", "content": "y"}]},
    ],
)
def test_all_else_is_another_request(other: dict[str, Any]) -> None:
    assert of(other) != of(BODY)


def test_one_body_to_two_endpoints_is_two_requests() -> None:
    assert of(BODY, "completions") != of(BODY, "chat")


def test_names_and_values_can_not_run_into_each_other() -> None:
    assert of({"a": 1, "b": 2}) != of({"a": "1,b:2"})
    assert fingerprint(b'{"a":1,"b":2}', "chat") != fingerprint(b'{"a":12,"b":""}', "chat")


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b"nonsense", b'{"n":' + b"9" * 400 + b"}", b'{"a":"\\ud800"}', b"[" * 9999],
)
def test_whatever_is_sent_has_one(body: bytes) -> None:
    assert len(fingerprint(body, "chat")) == 32
    assert fingerprint(body, "chat") == fingerprint(body, "chat") != fingerprint(body, "infer")
