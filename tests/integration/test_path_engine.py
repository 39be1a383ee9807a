"""The path with the gguf engine (tiny, random): its process dies in the middle of answers, no actor
does, and every answer is completed and billed once."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
import pytest_asyncio

from actors.stores.embedded import Embedded
from tests.support import tiny_gguf
from tests.support.engine_process import is_engine
from tests.support.path_node import Answer, Client, PathNode, running_path, until

TOKENS = 560
WORKER = "workers/w1"
SAMPLING = {"temperature": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def node(server: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathNode]:
    card = tiny_gguf.card(tiny_gguf.make(tmp_path_factory.mktemp("tiny")), context=640)
    with running_path(server, workers=("w1",), slots=8, card=card) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:
        yield made


def engine_of(worker: int) -> psutil.Process:
    """The process of the worker's engine."""
    found = [p for p in psutil.Process(worker).children() if is_engine(p)]
    assert len(found) == 1
    return found[0]


async def test_an_engine_that_dies_takes_nobody_along(client: Client) -> None:
    for _ in range(10):
        if await disturbed(client):
            return
    pytest.fail("every answer was over before the kill")


async def disturbed(client: Client) -> int:
    """Kills the engine of four answers; how many were not over yet."""
    before = await client.line(WORKER)
    engine = engine_of(before.pid)
    tokens = [secrets.token_hex(8) for _ in range(4)]
    answers = [Answer() for _ in tokens]
    begun = asyncio.Event()

    async def read(token: str, answer: Answer) -> None:
        infer = client.infer(
            f"the fox {token}", token, model_ref="tiny", max_tokens=TOKENS, sampling=SAMPLING
        )
        async for item in client.stream(infer):
            answer.add(item)
            begun.set()

    reading = [
        asyncio.create_task(read(token, answer))
        for token, answer in zip(tokens, answers, strict=True)
    ]
    await begun.wait()
    os.kill(engine.pid, signal.SIGKILL)
    await asyncio.gather(*reading)
    moved = 0
    for token, answer in zip(tokens, answers, strict=True):
        assert answer.completed is not None
        row = await client.settled(token)
        assert row["outcome"] == "completed"
        assert len(await client.ledger(row["id"])) == 1
        moved += row["fence"] > 1
    await client.no_lease_left()
    await client.ready()
    assert (await client.line(WORKER)).pid == before.pid
    if moved:
        assert engine_of(before.pid).pid != engine.pid
    return moved


async def test_an_engine_that_dies_again_and_again_fails_its_worker(client: Client) -> None:
    before = await client.line(WORKER)

    async def gone() -> bool:
        try:
            engine_of(before.pid).kill()
        except (AssertionError, psutil.NoSuchProcess):  # it is just being started, or the worker is
            return not psutil.pid_exists(before.pid)
        return False

    await until(gone, pause=0.2)
    await client.successor(before)
    await client.ready()
    answer = await client.answer(
        client.infer("hello", secrets.token_hex(8), model_ref="tiny", max_tokens=3)
    )
    assert answer.completed is not None
