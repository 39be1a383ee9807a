"""Answers in the shape of OpenAI: streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from actors.contracts import Chunk, Completed, Finish, Usage
from supervision.errors import Overloaded
from tether.http.completions import ChatEncoder, TextEncoder
from tether.http.infer import InferEncoder

USAGE = Usage(prompt_tokens=3, completion_tokens=4)
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


def done(text: str = "", seq: int = 2) -> Completed:
    return Completed(
        seq=seq, token_ids=(9,), text=text, finish=Finish.STOP, usage=USAGE, model_ref="m@1"
    )


def events(stream: bytes) -> list[Any]:
    assert stream.endswith(b"\n\n")
    lines = stream.decode().split("\n\n")[:-1]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_chat_stream_is_what_openai_expects(a: str, b: str, c: str, with_usage: bool) -> None:
    encoder = ChatEncoder("id1", 'mo"del', stream=True, with_usage=with_usage)
    stream = (
        encoder.part(Chunk(seq=0, token_ids=(1,), text=a), first=True)
        + encoder.part(Chunk(seq=1, token_ids=(2,), text=b), first=False)
        + encoder.end(done(c), first=False)
    )
    *chunks, last = events(stream)
    assert last == "[DONE]"
    parsed = [ChatCompletionChunk.model_validate(chunk, strict=False) for chunk in chunks]
    assert {p.id for p in parsed} == {"chatcmpl-id1"}
    assert {p.model for p in parsed} == {'mo"del'}
    assert {p.object for p in parsed} == {"chat.completion.chunk"}
    choices = [p.choices[0] for p in parsed if p.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == a + b + c
    assert [choice.delta.role for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    if with_usage:
        assert parsed[-1].usage is not None and parsed[-1].usage.total_tokens == 7
        assert parsed[-1].choices == []
        assert all("usage" in chunk and chunk["usage"] is None for chunk in chunks[:-1])
    else:
        assert all("usage" not in chunk for chunk in chunks)


def test_chat_stream_of_nothing_but_the_end_has_a_role() -> None:
    encoder = ChatEncoder("id1", "m", stream=True, with_usage=False)
    role, finish, last = events(encoder.end(done(""), first=True))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (finish["choices"][0]["finish_reason"], last) == ("stop", "[DONE]")


def test_half_a_character_is_not_said() -> None:
    chunk = Chunk(seq=1, token_ids=(5,), text="")
    assert ChatEncoder("i", "m", stream=True, with_usage=False).part(chunk, first=False) == b""
    assert TextEncoder("i", "m", stream=True, with_usage=False).part(chunk, first=False) == b""
    assert InferEncoder("i", events=True).part(chunk, first=False) == b""


@given(TEXTS)
def test_whole_answers_are_what_openai_expects(text: str) -> None:
    item = done(text, seq=0)
    chat = ChatEncoder("id1", "m", stream=False, with_usage=False).whole(item)
    parsed = ChatCompletion.model_validate_json(chat)
    assert parsed.choices[0].message.content == text
    assert parsed.choices[0].finish_reason == "stop" and parsed.object == "chat.completion"
    assert parsed.usage is not None and parsed.usage.completion_tokens == 4
    plain = TextEncoder("id1", "m", stream=False, with_usage=False).whole(item)
    completion = Completion.model_validate_json(plain)
    assert completion.choices[0].text == text and completion.object == "text_completion"
    assert completion.usage is not None and completion.usage.total_tokens == 7


@given(TEXTS, TEXTS)
def test_text_stream_is_what_openai_expects(a: str, b: str) -> None:
    encoder = TextEncoder("id1", "m", stream=True, with_usage=True)
    stream = encoder.part(Chunk(seq=0, token_ids=(1,), text=a), first=True)
    *chunks, last = events(stream + encoder.end(done(b), first=False))
    parsed = [Completion.construct(**chunk) for chunk in chunks]
    assert "".join(p.choices[0].text for p in parsed if p.choices) == a + b
    assert parsed[-1].usage is not None and last == "[DONE]"


@pytest.mark.parametrize(
    "encoder",
    [
        ChatEncoder("i", "m", stream=True, with_usage=True),
        TextEncoder("i", "m", stream=True, with_usage=False),
        InferEncoder("i", events=True),
    ],
)
def test_a_broken_stream_never_looks_complete(encoder: Any) -> None:
    said = encoder.broken(Overloaded("too much"))
    (event,) = events(said)
    assert event["error"]["code"] == "overloaded" and event["error"]["message"] == "too much"
    assert b"[DONE]" not in said and b"finish_reason" not in said and b'"done":true' not in said
