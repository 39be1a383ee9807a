"""Answers as lines of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.contracts import Chunk, Completed, Finish, Usage
from tether.http.infer import InferEncoder

USAGE = Usage(prompt_tokens=3, completion_tokens=4)


def done(text: str = "", seq: int = 2) -> Completed:
    return Completed(
        seq=seq, token_ids=(9,), text=text, finish=Finish.STOP, usage=USAGE, model_ref="m@1"
    )


def events(stream: bytes) -> list[Any]:
    assert stream.endswith(b"\n\n")
    lines = stream.decode().split("\n\n")[:-1]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("as_events", [True, False])
def test_infer_lines(as_events: bool) -> None:
    voice = InferEncoder('c"1', events=as_events)
    stream = voice.part(Chunk(seq=0, token_ids=(1, 2), text="a"), first=True) + voice.end(
        done("b"), first=False
    )
    lines = [json.loads(line) for line in stream.splitlines()] if not as_events else []
    chunks = lines or events(stream)
    assert chunks == [
        {"correlationId": 'c"1', "seq": 0, "payload": {"text": "a"}, "done": False},
        {
            "correlationId": 'c"1',
            "seq": 2,
            "payload": {
                "text": "b",
                "finishReason": "stop",
                "usage": {"promptTokens": 3, "completionTokens": 4},
                "modelRef": "m@1",
            },
            "done": True,
        },
    ]
