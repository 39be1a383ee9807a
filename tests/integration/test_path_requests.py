"""Requests through the real path: gateway, scheduler, reservation, worker, PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import pytest_asyncio

from actors.contracts import Completed, Finish, ListModels, Readiness
from actors.errors import ContextExceeded, KeyReused, ModelNotFound
from actors.stores import keys
from actors.stores.embedded import Embedded
from supervision.errors import BadRequest, DeadlineExceeded, RateLimited, Unauthenticated
from tests.support.path_node import Answer, Client, PathNode, echoed, running_path
from tests.support.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def node(server: Embedded) -> Iterator[PathNode]:
    with running_path(server) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:
        yield made


@pytest.fixture
def token() -> str:
    return secrets.token_hex(8)


async def billed(client: Client, token: str) -> asyncpg.Record:
    row = await client.settled(token)
    entries = await client.ledger(row["id"])
    assert len(entries) == 1
    return row


async def test_a_stream_is_answered_settled_and_billed_once(client: Client, token: str) -> None:
    answer = await client.answer(client.infer("one two three", token, max_tokens=7))
    assert answer.text == echoed("one two three", 7)
    assert answer.completed is not None
    assert answer.completed.finish is Finish.LENGTH
    assert answer.completed.usage.completion_tokens == 7
    assert answer.completed.model_ref == "echo@1"
    row = await billed(client, token)
    assert (row["outcome"], row["finish"], row["completion_tokens"]) == ("completed", "length", 7)


async def test_the_first_token_leaves_alone_and_later_ones_in_company(
    client: Client, token: str
) -> None:
    for number in range(20):  # where nothing is late, the first one will do
        infer = client.infer("one two delay=5", f"{token}-{number}", max_tokens=40)
        answer = await client.answer(infer)
        assert answer.text == echoed("one two", 40)
        lengths = [len(item.token_ids) for item in answer.items]
        if lengths[0] == 1 and max(lengths) > 1 and len(lengths) < 30:
            return
    pytest.fail("in none of 20 answers the first token came alone and others didn't")


async def test_an_answer_as_a_whole(client: Client, token: str) -> None:
    answer = await client.answer(client.infer("a b", token, stream=False, max_tokens=5))
    assert len(answer.items) == 1
    assert answer.text == "a b a b a"
    assert answer.ids == [0, 1, 0, 1, 0]


async def test_many_at_once_are_not_mixed_up(client: Client, token: str) -> None:
    async def one(number: int) -> None:
        text = f"word{number} other{number}"
        infer = client.infer(text, f"{token}-{number}", stream=number % 2 == 0, max_tokens=20)
        assert (await client.answer(infer)).text == echoed(text, 20)

    await asyncio.gather(*(one(number) for number in range(200)))
    for number in range(200):
        await billed(client, f"{token}-{number}")


async def test_the_same_token_is_answered_from_one_computation(client: Client, token: str) -> None:
    infer = client.infer("x y z delay=10", token, max_tokens=30)
    first = asyncio.create_task(client.answer(infer))
    started = asyncio.create_task(client.answer(client.infer("x", token + "-", max_tokens=1)))
    await started
    joined, whole = await asyncio.gather(
        client.answer(infer),
        client.answer(client.infer("x y z delay=10", token, max_tokens=30, stream=False)),
    )
    original = await first
    assert joined.ids == original.ids == whole.ids
    assert joined.text == original.text == whole.text == echoed("x y z", 30)
    late = await client.answer(infer)
    assert late.text == original.text
    await billed(client, token)
    count = await client.database.fetchval(
        "SELECT count(*) FROM jobs WHERE retry_token = $1", token
    )
    assert count == 1


async def test_a_token_with_another_body_is_a_conflict(client: Client, token: str) -> None:
    await client.answer(client.infer("one", token))
    with pytest.raises(KeyReused):
        await client.answer(client.infer("two", token))


async def test_a_client_that_leaves_stops_the_computation(client: Client, token: str) -> None:
    infer = client.infer("tick delay=20", token, max_tokens=4000, explicit_token=False)
    stream = client.endpoint.stream(await client.gateway(), infer)
    received = 0
    async for item in stream:
        received += len(item.token_ids)
        if received >= 3:
            break
    await stream.aclose()
    row = await billed(client, token)
    assert row["outcome"] == "cancelled"
    assert 3 <= row["completion_tokens"] < 4000
    await client.no_lease_left()


async def test_one_of_two_that_leaves_stops_nothing(client: Client, token: str) -> None:
    infer = client.infer("tick delay=10", token, max_tokens=60)
    stream = client.endpoint.stream(await client.gateway(), infer)
    first = await stream.__anext__()
    assert first.seq == 0
    other = asyncio.create_task(client.answer(infer))
    await client.known(token)
    await stream.__anext__()
    await stream.aclose()
    assert (await other).text == echoed("tick", 60)
    assert (await billed(client, token))["outcome"] == "completed"


async def test_a_deadline_ends_a_request_and_its_job(client: Client, token: str) -> None:
    for deadline_s in (0.5, 5.0, 50.0):  # in which it is reserved even on a slow machine
        job = f"{token}-{deadline_s}"
        infer = client.infer("tick delay=50", job, max_tokens=4000, deadline_s=deadline_s)
        with pytest.raises(DeadlineExceeded):
            await client.answer(infer)
        if await client.database.fetchval("SELECT count(*) FROM jobs WHERE retry_token = $1", job):
            break
    row = await client.settled(job)
    assert (row["outcome"], row["error_code"]) == ("failed", "deadline_exceeded")
    billed_tokens = [entry["output_tokens"] for entry in await client.ledger(row["id"])]
    assert billed_tokens == [row["completion_tokens"]], "the client has read them, and pays"
    assert billed_tokens[0] > 0


async def test_what_is_wrong_with_a_request_is_said(client: Client, token: str) -> None:
    with pytest.raises(ModelNotFound):
        await client.answer(client.infer("x", token, model_ref="nothing"))
    with pytest.raises(BadRequest) as caught:
        await client.answer(client.infer("x", token, sampling={"temperature": 3.0}))
    assert caught.value.param == "temperature"
    with pytest.raises(BadRequest):
        await client.answer(client.infer("   ", token))
    with pytest.raises(ContextExceeded):
        await client.answer(client.infer("word " * 6000, token + "-", max_tokens=4000))
    with pytest.raises(BadRequest, match="idempotency key"):
        await client.answer(client.infer("x", "x" * 300))
    await client.no_lease_left()


async def test_keys(client: Client, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await client.answer(client.infer("x", token, credential="nonsense"))
    unknown = client.node.key[:-1] + ("A" if client.node.key[-1] != "A" else "B")
    with pytest.raises(Unauthenticated):
        await client.answer(client.infer("x", token, credential=unknown))
    made = await keys.create(client.database, "other")
    assert (await client.answer(client.infer("x", token, credential=made.text))).text
    assert await keys.revoke(client.database, made.key.id)
    async with asyncio.timeout(PATIENCE_S / 2):
        while True:  # until the gateway has heard of it; long before its own 60 s
            try:
                await client.answer(client.infer("x", secrets.token_hex(4), credential=made.text))
            except Unauthenticated:
                break
            await asyncio.sleep(0.02)


async def test_a_tenants_limits(client: Client, token: str) -> None:
    made = await keys.create(client.database, "small")
    await keys.limit(client.database, "small", requests_per_minute=2, max_concurrency=1)
    busy = client.infer(
        "tick delay=20", token, credential=made.text, max_tokens=4000, explicit_token=False
    )
    stream = client.endpoint.stream(await client.gateway(), busy)
    await stream.__anext__()
    with pytest.raises(RateLimited, match="1 may at once"):
        await client.answer(client.infer("x", token + "1", credential=made.text))
    await stream.aclose()
    await client.settled(token)
    await client.answer(client.infer("x", token + "2", credential=made.text))
    with pytest.raises(RateLimited, match="2 requests a minute") as caught:
        await client.answer(client.infer("x", token + "3", credential=made.text))
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 30


async def test_models_and_readiness(client: Client) -> None:
    gateway = await client.gateway()
    catalog = await client.endpoint.ask(gateway, ListModels(credential=client.node.key))
    assert [card.ref for card in catalog.models] == ["echo@1"]
    assert (await client.endpoint.ask(gateway, Readiness())).models == ("echo@1",)
    with pytest.raises(Unauthenticated):
        await client.endpoint.ask(gateway, ListModels(credential="x"))


async def test_a_slow_reader_holds_up_nobody_else(client: Client, token: str) -> None:
    infer = client.infer("tick", token, max_tokens=2000)
    slow = client.endpoint.stream(await client.gateway(), infer, credit=1)
    await slow.__anext__()
    assert (await client.answer(infer)).text == echoed("tick", 2000)
    rest = Answer(1)
    async for item in slow:
        rest.add(item)
    assert isinstance(rest.completed, Completed)
