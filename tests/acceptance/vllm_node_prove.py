"""A whole node whose model runs in vLLM: other people's client, hang-ups, and the engine's death.

Started by `scripts/prove vllm`, not by CI: vLLM takes gigabytes to install.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from importlib import util
from pathlib import Path

import httpx2
import openai
import psutil
import pytest

from tests.support.engine_process import is_engine
from tests.support.node_process import SMOLLM2, Launcher, Node, until, write_config

MODEL = "smollm2-135m-instruct"
VLLM = (
    SMOLLM2.replace('engine = "transformers"', 'engine = "vllm"').replace("torch", "vllm")
    + 'sandbox = "required"\n'
)
QUESTIONS = [f"What is {n} plus {n + 1}? Answer with one short sentence." for n in range(8)]
STORY = "Tell me a long story about the sea."
TOKENS = 120

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("vllm")
    write_config(folder, models=VLLM)
    return launch(folder, timeout_s=300)


def client_of(node: Node) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{node.url}/v1", api_key=node.key, timeout=240, max_retries=0
    )


def engine_of(node: Node) -> psutil.Process:
    """The process of the one engine."""
    found = [psutil.Process(pid) for pid in node.pids()]
    (host,) = [p for p in found if is_engine(p)]
    return host


async def said(
    client: openai.AsyncOpenAI, question: str, *, max_tokens: int = 16, temperature: float = 0.0
) -> tuple[str, str | None]:
    text, finish = "", None
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=temperature,
        seed=5,
        max_tokens=max_tokens,
        stream=True,
    )
    async for event in stream:
        for choice in event.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish


async def figure(node: Node, name: str) -> float:
    """The sum of a metric over all processes of the node."""
    async with httpx2.AsyncClient(timeout=60) as client:
        text = (await client.get(node.metrics)).text
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found)) if found else -1.0


async def test_it_runs_in_its_own_environment(node: Node) -> None:
    host = engine_of(node)
    assert util.find_spec("vllm") is None  # here, and who answers has it
    assert not host.children()
    async with client_of(node) as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=24,
        )
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def test_streams_at_once_equal_those_alone(node: Node) -> None:
    async with client_of(node) as client:
        for temperature in (0.0, 1.0):
            alone = [await said(client, one, temperature=temperature) for one in QUESTIONS]
            together = await asyncio.gather(
                *(said(client, one, temperature=temperature) for one in QUESTIONS)
            )
            assert together == alone


async def test_a_client_that_hangs_up_frees_the_memory(node: Node) -> None:
    async with client_of(node) as client:
        streams = []
        for _ in range(4):
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": STORY}],
                max_tokens=1000,
                stream=True,
            )
            await anext(aiter(stream))
            streams.append(stream)
        await until(lambda: busy(node, True), "memory held")
        for stream in streams:
            await stream.close()
        await until(lambda: busy(node, False), "memory free")


async def busy(node: Node, wanted: bool) -> bool:
    """Does the engine hold memory for answers, or none?"""
    held = await figure(node, "tether_engine_cache_bytes")
    return held > 0 if wanted else held == 0.0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_an_answer_goes_on_after_its_engine_was_killed(
    node: Node, temperature: float
) -> None:
    async with client_of(node) as client:
        whole = await said(client, STORY, max_tokens=TOKENS, temperature=temperature)
        assert whole[1] == "length"
        engine = engine_of(node)
        text, finish, killed = "", None, False
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": STORY}],
            temperature=temperature,
            seed=5,
            max_tokens=TOKENS,
            stream=True,
        )
        async for event in stream:
            for choice in event.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            if text and not killed:
                killed = True
                os.kill(engine.pid, signal.SIGKILL)
        assert finish is not None
        assert (text, finish) == whole
        assert engine_of(node).pid != engine.pid


async def test_nothing_is_left_of_it(node: Node) -> None:
    host = engine_of(node)
    assert node.stop() == 0
    assert not host.is_running()
    assert not list(Path("/dev/shm").glob("*vllm*"))
