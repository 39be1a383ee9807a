"""SIGSTOP on the path, for longer than others wait for an answer: what hangs ends no request before
that one's own deadline, and what was asked of it more than once is done once."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from actors.stores.embedded import Embedded
from supervision.errors import DeadlineExceeded
from tests.support.path_node import Client, PathNode, echoed, running_path
from tests.support.waiting import PATIENCE_S

RESERVE_S = 0.5  # for which the scheduler waits for reservation
RESERVATION, SCHEDULER = "control/reservation", "control/scheduler"
REQUESTS = 4


@pytest.fixture(scope="module")
def node(server: Embedded) -> Iterator[PathNode]:
    with running_path(server, reserve_s=RESERVE_S) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:
        yield made


@pytest.fixture
def token() -> str:
    return secrets.token_hex(8)


@asynccontextmanager
async def stopped(client: Client, path: str) -> AsyncIterator[None]:
    """What runs at `path` does nothing, and keeps its connections."""
    pid = (await client.line(path)).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("path", [RESERVATION, SCHEDULER])
async def test_requests_outlast_what_hangs_and_are_billed_once(
    client: Client, token: str, path: str
) -> None:
    async with stopped(client, path):
        asked = [
            asyncio.create_task(client.answer(client.infer("a b", f"{token}-{n}", max_tokens=6)))
            for n in range(REQUESTS)
        ]
        ended, _ = await asyncio.wait(
            asked, timeout=4 * RESERVE_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert not ended, f"ended while {path} hung: {[task.exception() for task in ended]}"
    for answer in await asyncio.gather(*asked):
        assert answer.text == echoed("a b", 6)
    for n in range(REQUESTS):
        row = await client.settled(f"{token}-{n}")
        assert (row["outcome"], row["completion_tokens"]) == ("completed", 6)
        assert len(await client.ledger(row["id"])) == 1
    await client.no_lease_left()


async def test_its_own_deadline_ends_a_request_and_nothing_before_it(
    client: Client, token: str
) -> None:
    deadline_s = 3.5 * RESERVE_S
    async with stopped(client, RESERVATION):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.answer(client.infer("a", token, deadline_s=deadline_s))
        assert time.monotonic() - began >= deadline_s - 0.01
    # the same again, by who has time: whatever the reserves of before came to, it is answered once
    answer = await client.answer(client.infer("a", token, max_tokens=3))
    assert answer.text == echoed("a", 3)
    assert len(await client.ledger((await client.settled(token))["id"])) == 1


async def test_who_joins_a_request_with_more_time_isn_t_held_to_the_deadline_of_the_first(
    client: Client, token: str
) -> None:
    text, tokens = "tick delay=50", 60  # 3 s
    infer = client.infer(text, token, max_tokens=tokens, deadline_s=2.0)
    longer = client.infer(text, token, max_tokens=tokens, deadline_s=2 * PATIENCE_S)
    first = asyncio.create_task(client.answer(infer))
    await client.known(token)
    answer = await client.answer(longer)
    assert answer.text == echoed(text, tokens)
    await asyncio.gather(first, return_exceptions=True)  # its front door would have ended it
    row = await client.settled(token)
    assert (row["outcome"], row["completion_tokens"], row["fence"]) == ("completed", tokens, 2)
    entries = await client.ledger(row["id"])  # what the deadline cut, and what came to it
    assert sum(entry["output_tokens"] for entry in entries) == tokens
