"""OpenAI's bodies and Tether's own, read into contracts or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.contracts import ChatInput, Message, Sampling, TextInput
from supervision.errors import BadRequest, Forbidden
from tether.http.caller import HttpCaller
from tether.http.infer import InferFormat
from tether.http.openai_schema import read_chat, read_text

USER = {"role": "user", "content": "hi"}
CALLER = HttpCaller("tether-acme-secret", "", 10.0)


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def text(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "once", **fields}).encode()


def test_chat_fields_reach_the_contracts() -> None:
    asked = read_chat(
        chat(
            messages=[
                {"role": "developer", "content": "be brief", "name": "x"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
            ],
            max_tokens=7,
            temperature=0,
            top_p=0.5,
            seed=-3,
            stop=["x", "y"],
            stream=True,
            stream_options={"include_usage": True},
            user="u",
            unknown=[1],
        ),
        256,
    )
    assert asked.input == ChatInput(
        messages=(Message(role="system", content="be brief"), Message(role="user", content="ab"))
    )
    assert asked.sampling == Sampling(
        max_tokens=7, temperature=0.0, top_p=0.5, seed=-3, stop=("x", "y")
    )
    assert asked.stream and asked.include_usage


def test_defaults_are_openais() -> None:
    assert read_chat(chat(), 99).sampling == Sampling(max_tokens=99)
    assert read_text(text()).sampling == Sampling(max_tokens=16)
    assert not read_chat(chat(stream=None), 1).stream


def test_max_completion_tokens_wins() -> None:
    assert read_chat(chat(max_tokens=5, max_completion_tokens=6), 1).sampling.max_tokens == 6


def test_one_prompt_in_a_list_is_a_prompt() -> None:
    assert read_text(text(prompt=["one"])).input == TextInput(prompt="one")


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1}, {"n": None}, {"logprobs": False}, {"tools": []}, {"tool_choice": "none"},
        {"response_format": {"type": "text"}}, {"logit_bias": {}}, {"presence_penalty": 0},
        {"frequency_penalty": 0.0}, {"modalities": ["text"]}, {"parallel_tool_calls": True},
        {"store": False}, {"metadata": {"a": "b"}}, {"service_tier": "auto"},
    ],
)  # fmt: skip
def test_values_that_ask_for_nothing_are_taken(harmless: dict[str, Any]) -> None:
    read_chat(chat(**harmless), 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 1 << 63}, "seed"),
        ({"seed": 10**40}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": "yes"}, "stream"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_chat_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_chat(chat(**fields), 256)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 0}, "logprobs"),
    ],
)
def test_text_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_text(text(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "truncated"),
        (b'{"model": nope}', "byte 14"),
        (b"[]", "expected `object`"),
        (b'{"model":"m"}', "messages"),
        (b'\xff{"model":"m"}', "no JSON"),
        (b'{"model":"\xff"}', "no JSON"),
        (b'{"messages":' + b"[" * 100_000, "messages"),
        (b'{"x":' + b"[" * 100_000, "nested"),
    ],
)
def test_malformed_bodies_say_where(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_chat(body, 256)
    assert says in caught.value.message


def infer(
    headers: dict[bytes, bytes] | None = None, caller: HttpCaller = CALLER, **fields: Any
) -> Any:
    body = json.dumps({"modelId": "m", "input": "hi", **fields}).encode()
    return InferFormat(64).read(body, headers or {}, caller, "id1")


def test_infer_reads_the_contract_of_the_seed() -> None:
    order = infer(
        tenantId="acme", version="2", correlationId="c1", retryToken="r1",
        traceId="0123456789abcdef0123456789abcdef", stream=True, maxTokens=3, topP=0.9,
    )  # fmt: skip
    assert (order.model_ref, order.input) == ("m@2", TextInput(prompt="hi"))
    assert (order.correlation_id, order.retry_token) == ("c1", "r1")
    assert order.trace_id == "0123456789abcdef0123456789abcdef"
    assert order.stream and order.sampling == Sampling(max_tokens=3, top_p=0.9)


@pytest.mark.parametrize(
    "source", [[USER], {"messages": [USER]}, {"messages": [USER], "prompt": None}]
)
def test_infer_takes_messages(source: Any) -> None:
    assert infer(input=source).input == ChatInput(messages=(Message(role="user", content="hi"),))


def test_infer_fingerprint_ignores_what_a_retry_changes() -> None:
    first = infer(correlationId="a", traceId="1" * 32)
    assert infer(correlationId="b", traceId="2" * 32).fingerprint == first.fingerprint
    assert infer(input="other").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": {"prompt": "a", "messages": [USER]}}, "input"),
        ({"input": 7}, "input"),
        ({"modelId": ""}, "modelId"),
        ({"modelId": "m@1", "version": "2"}, "version"),
        ({"correlationId": "a b"}, "correlationId"),
        ({"correlationId": "x" * 129}, "correlationId"),
        ({"traceId": "0" * 32}, "traceId"),
        ({"traceId": "xyz"}, "traceId"),
        ({"retryToken": "x" * 256}, "retryToken"),
        ({"maxTokens": 0}, "maxTokens"),
        ({"topP": 2}, "topP"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
    ],
)
def test_infer_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        infer(**fields)
    assert caught.value.param == param


def test_infer_refuses_another_tenant_and_two_tokens() -> None:
    with pytest.raises(Forbidden):
        infer(tenantId="other")
    with pytest.raises(BadRequest) as caught:
        infer(caller=CALLER._replace(retry_token="a"), retryToken="b")
    assert caught.value.param == "retryToken"
