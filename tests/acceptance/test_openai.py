"""Other people's clients against a whole node: the openai package, and curl."""

from __future__ import annotations

import asyncio
import json
import subprocess

import httpx2
import openai
import pytest

from tests.support.node_process import Node, until
from tests.support.sse import chat, echoed
from tests.support.waiting import PATIENCE_S

MODEL = "smollm2-135m-instruct"
QUESTIONS = [f"What is {n} plus {n + 1}? Answer with one short sentence." for n in range(16)]


def client_of(node: Node) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{node.url}/v1", api_key=node.key, timeout=240, max_retries=0
    )


async def test_an_answer_as_a_whole(real_node: Node) -> None:
    async with client_of(real_node) as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=24,
        )
    choice = answer.choices[0]
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_max_tokens_ends_an_answer_as_length(real_node: Node) -> None:
    async with client_of(real_node) as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a long story."}],
            max_tokens=5,
            seed=1,
        )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_sixteen_streams_at_once_are_not_mixed_up(real_node: Node) -> None:
    """Greedy answers in a full batch equal those asked for one by one."""

    async def ask(client: openai.AsyncOpenAI, question: str) -> tuple[str, str | None, int]:
        text, finish, tokens = "", None, 0
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for event in stream:
            for choice in event.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            if event.usage is not None:
                tokens = event.usage.completion_tokens
        return text, finish, tokens

    async with client_of(real_node) as client:
        alone = [await ask(client, question) for question in QUESTIONS]
        together = await asyncio.gather(*(ask(client, question) for question in QUESTIONS))
    assert together == alone
    assert len({text for text, _, _ in alone}) > 8, "the questions do not tell answers apart"
    for text, finish, tokens in together:
        assert text.strip()
        assert finish in ("stop", "length")
        assert (finish == "length") == (tokens == 16)


async def test_text_completion(real_node: Node) -> None:
    async with client_of(real_node) as client:
        answer = await client.completions.create(
            model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8
        )
    assert "Paris" in answer.choices[0].text


async def test_models_are_listed(real_node: Node) -> None:
    async with client_of(real_node) as client:
        listed = {model.id async for model in client.models.list()}
    assert {MODEL, "echo"} <= {name.split("@")[0] for name in listed}


async def test_errors_are_those_the_client_knows(real_node: Node) -> None:
    async with client_of(real_node) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(
                model="gpt-17", messages=[{"role": "user", "content": "hi"}]
            )
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], temperature=9
            )
    async with client_of(real_node).with_options(api_key="sk-wrong") as wrong:
        with pytest.raises(openai.AuthenticationError):
            await wrong.models.list()


async def test_a_client_that_hangs_up_is_settled_as_cancelled(real_node: Node) -> None:
    async with httpx2.AsyncClient(
        base_url=real_node.url, headers=real_node.headers, timeout=PATIENCE_S
    ) as client:
        body = {
            "model": "echo",
            "messages": [{"role": "user", "content": "delay=20 leaving soon"}],
            "max_tokens": 4000,
            "stream": True,
        }
        token = {"idempotency-key": "hang-up"}
        async with client.stream(
            "POST", "/v1/chat/completions", json=body, headers=token
        ) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    break

    async def cancelled() -> bool:
        found = await real_node.sql(
            "select outcome from jobs where retry_token = $1", token["idempotency-key"]
        )
        return bool(found == "cancelled")

    await until(cancelled, "the job is settled as cancelled")


def test_curl(real_node: Node) -> None:
    body = json.dumps(
        {
            "model": "echo",
            "messages": [{"role": "user", "content": "one two three"}],
            "max_tokens": 5,
            "stream": True,
        }
    )
    shown = subprocess.run(
        ["curl", "-sN", f"{real_node.url}/v1/chat/completions",
         "-H", f"authorization: Bearer {real_node.key}",
         "-H", "content-type: application/json", "-d", body],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    ).stdout  # fmt: skip
    events = [line[6:] for line in shown.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    parts = [json.loads(event)["choices"] for event in events[:-1]]
    text = "".join(c["delta"].get("content") or "" for choices in parts for c in choices)
    assert text.split() == echoed("one two three", 5).split()


async def test_the_echo_model_repeats(real_node: Node) -> None:
    async with httpx2.AsyncClient(
        base_url=real_node.url, headers=real_node.headers, timeout=PATIENCE_S
    ) as client:
        answer = await chat(client, "a b c", max_tokens=7)
    assert answer.complete
    assert answer.text.split() == echoed("a b c", 7).split()
    assert answer.finish == "length"
    assert answer.usage["completion_tokens"] == 7
