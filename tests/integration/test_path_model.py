"""The path with a transformers model (tiny, random, so all tokens are likely): what was sampled
before a kill and after it is what an undisturbed run samples."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.contracts import Infer, ModelCard
from actors.stores.embedded import Embedded
from supervision.errors import PeerLost
from tests.support import tiny
from tests.support.path_node import GATEWAY, WORKERS, Answer, Client, PathNode, running_path, until

TOKENS = 560
GREEDY: dict[str, Any] = {"temperature": 0.0}
SEEDED: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 42}


@pytest.fixture(scope="module")
def node(server: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathNode]:
    folder: Path = tiny.make(tmp_path_factory.mktemp("tiny"))
    card = ModelCard(
        name="tiny", version="1", engine="transformers", source=str(folder), context=640
    )
    with running_path(server, slots=8, card=card) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:
        yield made


def ask(client: Client, sampling: dict[str, Any], seed: int = 0) -> Infer:
    """A request whose undisturbed answer is long enough to be disturbed."""
    text = f"the quick brown fox {seed}"
    return client.infer(
        text, secrets.token_hex(8), model_ref="tiny", max_tokens=TOKENS, sampling=sampling
    )


async def long_one(client: Client, sampling: dict[str, Any]) -> tuple[int, Answer]:
    """Which prompt gives a long answer, and that answer."""
    for seed in range(40):
        answer = await client.answer(ask(client, sampling, seed))
        if len(answer.ids) >= 400:
            return seed, answer
    raise AssertionError("no prompt of 40 gives a long answer")


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("killed", ["worker", "gateway"])
async def test_a_kill_changes_no_token(
    client: Client, sampling: dict[str, Any], killed: str
) -> None:
    seed, undisturbed = await long_one(client, sampling)
    for _ in range(10):
        if await disturbed(client, sampling, seed, undisturbed, killed):
            return
    pytest.fail("every answer was over before the kill")


async def disturbed(
    client: Client, sampling: dict[str, Any], seed: int, undisturbed: Answer, killed: str
) -> bool:
    """Kills what works on an answer, which is as it would have been; was the kill in time?"""
    infer = ask(client, sampling, seed)
    lines = {
        path: await client.line(path) for path in (GATEWAY, *(f"workers/{w}" for w in WORKERS))
    }
    others = [asyncio.create_task(client.stubborn(ask(client, sampling, n))) for n in range(3)]
    answer = Answer()
    gone = asyncio.Event()

    async def read() -> None:
        # A gateway sends no more than the credit, so that it can't be done before it is killed.
        async for item in client.stream(infer, credit=64 if killed == "worker" else 2):
            answer.add(item)
            if killed == "gateway" and len(answer.ids) >= 5:
                await gone.wait()

    async def some() -> bool:
        return len(answer.ids) >= 5

    reading = asyncio.create_task(read())
    await until(some, pause=0.001)
    path = GATEWAY
    if killed == "worker":
        path = f"workers/{(await client.job(infer.retry_token))['worker_id']}"
    os.kill(lines[path].pid, signal.SIGKILL)
    gone.set()
    if killed == "worker":
        await reading
    else:
        with pytest.raises(PeerLost):
            await reading
        await client.stubborn(infer, answer)
    assert answer.ids == undisturbed.ids
    assert answer.text == undisturbed.text
    assert answer.completed is not None
    assert undisturbed.completed is not None
    assert answer.completed.usage == undisturbed.completed.usage
    await asyncio.gather(*others)
    await client.successor(lines[path])
    await client.ready()
    row = await client.settled(infer.retry_token)
    assert len(await client.ledger(row["id"])) == 1
    return killed == "gateway" or row["fence"] == 2
