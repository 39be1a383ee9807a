"""More requests than slots: one worker with two slots, and a scheduler that lets four wait."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from actors.stores import keys
from actors.stores.embedded import Embedded
from supervision.errors import Cancelled, DeadlineExceeded, Overloaded
from tests.support.path_node import Client, PathNode, echoed, running_path, until


@pytest.fixture(scope="module")
def node(server: Embedded) -> Iterator[PathNode]:
    with running_path(server, workers=("w1",), slots=2, queue=4) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:
        yield made


@pytest.fixture
def token() -> str:
    return secrets.token_hex(8)


async def test_they_wait_for_a_slot_and_all_are_answered(client: Client, token: str) -> None:
    infers = [
        client.infer(f"w{n} delay=20", f"{token}-{n}", max_tokens=10, stream=n % 2 == 0)
        for n in range(6)
    ]
    answers = await asyncio.gather(*map(client.answer, infers))
    for number, answer in enumerate(answers):
        assert answer.text == echoed(f"w{number}", 10)
    for infer in infers:
        assert (await client.settled(infer.retry_token))["outcome"] == "completed"


@contextlib.asynccontextmanager
async def full(client: Client, token: str) -> AsyncIterator[None]:
    """Both slots are taken until the block ends, however long that takes."""
    gateway = await client.gateway()
    held = [
        client.endpoint.stream(
            gateway,
            client.infer("w delay=50", f"{token}-held-{n}", max_tokens=4000, explicit_token=False),
        )
        for n in range(2)
    ]
    for stream in held:
        await stream.__anext__()
    try:
        yield
    finally:
        for stream in held:
            await stream.aclose()


async def crowded(client: Client) -> bool:
    """Do as many wait as may?"""
    try:
        await client.answer(client.infer("w", secrets.token_hex(8), deadline_s=0.5))
    except Overloaded:
        return True
    except (DeadlineExceeded, Cancelled):
        return False
    return False


async def test_beyond_the_bound_they_are_sent_away(client: Client, token: str) -> None:
    refused: list[int] = []

    async def one(number: int) -> str:
        try:
            infer = client.infer("w delay=5", f"{token}-{number}", max_tokens=20)
            return (await client.answer(infer)).text
        except Overloaded:
            refused.append(number)
            return ""

    async with full(client, token):
        asked = [asyncio.create_task(one(number)) for number in range(10)]

        async def enough() -> bool:
            return len(refused) >= 6

        await until(enough)
    texts = await asyncio.gather(*asked)
    assert sorted(texts) == [""] * 6 + [echoed("w", 20)] * 4
    await client.no_lease_left()


async def test_who_leaves_the_queue_takes_no_slot(client: Client, token: str) -> None:
    gateway = await client.gateway()
    async with full(client, token):
        left = [
            client.endpoint.stream(
                gateway, client.infer("w", f"{token}-left-{n}", explicit_token=False)
            )
            for n in range(4)
        ]
        waiting = [asyncio.create_task(stream.__anext__()) for stream in left]
        await until(lambda: crowded(client))
        for stream in left:
            stream.close()
        await asyncio.gather(*waiting, return_exceptions=True)

        async def room_again() -> bool:
            return not any(await asyncio.gather(*(crowded(client) for _ in range(4))))

        await until(room_again)
    after = await client.answer(client.infer("w", f"{token}-after"))
    assert after.text == echoed("w", 8)
    rows = await client.database.fetchval(
        "SELECT count(*) FROM jobs WHERE retry_token LIKE $1", f"{token}-left-%"
    )
    assert rows == 0, "nothing was reserved for them"
    await client.no_lease_left()


async def test_a_deadline_passes_in_the_queue(client: Client, token: str) -> None:
    async with full(client, token):
        with pytest.raises((DeadlineExceeded, Cancelled)):
            await client.answer(client.infer("w", f"{token}-late", deadline_s=0.4))


async def test_a_crowd_of_one_tenant_lets_another_one_in(client: Client, token: str) -> None:
    """Round robin: the other tenant's only request, which came last, isn't answered last."""
    other = (await keys.create(client.database, "quiet")).text
    order: list[str] = []

    async def one(name: str, credential: str) -> None:
        infer = client.infer("w delay=20", f"{token}-{name}", max_tokens=10, credential=credential)
        while True:
            try:
                await client.answer(infer)
            except Overloaded:  # by a look at the queue, which takes a place in it
                continue
            order.append(name)
            return

    async with full(client, token):
        crowd = [asyncio.create_task(one(f"c{n}", client.node.key)) for n in range(3)]
        await client.ready()  # a word with the gateway, after it has heard of them
        quiet = asyncio.create_task(one("quiet", other))
        await until(lambda: crowded(client))
    await asyncio.gather(*crowd, quiet)
    assert order.index("quiet") < 3


async def test_while_the_only_worker_restarts_requests_wait_for_it(
    client: Client, token: str
) -> None:
    running = asyncio.create_task(
        client.answer(client.infer("w delay=20", f"{token}-0", max_tokens=60))
    )
    await client.known(f"{token}-0")
    line = await client.kill("workers/w1")
    during = await client.answer(client.infer("x", f"{token}-1"))
    assert during.text == echoed("x", 8)
    assert (await running).text == echoed("w", 60), "continued on the restarted worker"
    await client.successor(line)
    await client.no_lease_left()
