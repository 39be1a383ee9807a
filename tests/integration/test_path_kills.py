"""SIGKILL anywhere on the path while answers run: nothing lost, doubled, or billed twice."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from actors.contracts import Infer
from actors.core.kept_answer import unpack
from actors.stores.embedded import Embedded
from supervision.contracts import ExitReason, StopChild
from supervision.errors import Draining, PeerLost
from tests.support.path_node import GATEWAY, Answer, Client, PathNode, echoed, running_path, until

TOKENS = 100
TEXT = "alpha beta gamma delay=20"
#: Tokens of answers that are disturbed; the longer ones where one was over before it was.
LENGTHS = (TOKENS, 5 * TOKENS, 20 * TOKENS)


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


async def begun(
    client: Client, infer: Infer, tokens: int = 5, hold: asyncio.Event | None = None
) -> tuple[Answer, asyncio.Task[None]]:
    """An answer of which `tokens` have come, and the task that reads on. With `hold` it does when
    that is set: so its gateway, which is granted no more, can't have sent the end before."""
    answer = Answer()

    async def read() -> None:
        async for item in client.stream(infer, credit=64 if hold is None else 1):
            answer.add(item)
            if hold is not None and len(answer.ids) >= tokens:
                await hold.wait()

    task = asyncio.create_task(read())
    await came(tokens, answer)
    return answer, task


async def came(tokens: int, *answers: Answer) -> None:
    """Returns when so many tokens of each have come."""

    async def enough() -> bool:
        return all(len(answer.ids) >= tokens for answer in answers)

    await until(enough)


async def books_are_right(
    client: Client, tokens: list[str], length: int = TOKENS, *, kept: bool = True
) -> None:
    """Each job closed once and billed once, its answer kept in full, and no lease left."""
    for token in tokens:
        row = await client.settled(token)
        answer = await client.database.fetchval(
            "SELECT bytes FROM answers WHERE job_id = $1", row["id"]
        )
        assert (answer is not None) == kept
        if kept:
            assert len(unpack(answer).token_ids) == 4 * length
        assert row["outcome"] == "completed", dict(row)
        assert row["completion_tokens"] == length
        assert len(await client.ledger(row["id"])) == 1
    await client.no_lease_left()


async def test_a_killed_worker_is_continued_exactly_by_another(client: Client, token: str) -> None:
    for length in LENGTHS:
        job = f"{token}-{length}"
        answer, reading = await begun(client, client.infer(TEXT, job, max_tokens=length))
        worker = (await client.job(job))["worker_id"]
        line = await client.kill(f"workers/{worker}")
        await reading
        assert answer.text == echoed(TEXT, length)
        await books_are_right(client, [job], length)
        await client.successor(line)
        if (await client.job(job))["fence"] == 2:
            assert (await client.job(job))["worker_id"] != worker
            return
    pytest.fail("every answer was over before its worker was killed")


async def test_a_killed_worker_under_a_whole_answer(client: Client, token: str) -> None:
    task = asyncio.create_task(
        client.answer(client.infer(TEXT, token, max_tokens=TOKENS, stream=False))
    )
    await client.known(token)
    line = await client.kill(f"workers/{(await client.job(token))['worker_id']}")
    assert (await task).text == echoed(TEXT, TOKENS)
    await books_are_right(client, [token])
    await client.successor(line)


async def test_both_workers_killed_one_after_the_other(client: Client, token: str) -> None:
    answer, reading = await begun(client, client.infer(TEXT, token, max_tokens=TOKENS))
    first = await client.kill(f"workers/{(await client.job(token))['worker_id']}")
    await came(min(len(answer.ids) + 5, TOKENS), answer)
    second = await client.kill(f"workers/{(await client.job(token))['worker_id']}")
    await reading
    assert answer.text == echoed(TEXT, TOKENS)
    await books_are_right(client, [token])
    await client.successor(first)
    await client.successor(second)


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "implicit"])
async def test_a_killed_gateway_is_reopened_at_the_next_token(
    client: Client, token: str, explicit: bool
) -> None:
    infer = client.infer(TEXT, token, max_tokens=TOKENS, explicit_token=explicit)
    hold = asyncio.Event()
    answer, reading = await begun(client, infer, hold=hold)
    line = await client.kill(GATEWAY)
    hold.set()
    with pytest.raises(PeerLost):
        await reading
    assert 0 < len(answer.ids) < TOKENS
    await client.successor(line)
    await client.ready()
    await client.stubborn(infer, answer)
    assert answer.text == echoed(TEXT, TOKENS)
    await books_are_right(client, [token], kept=explicit)
    assert (await client.job(token))["fence"] == 1, "the worker ran on; nothing began anew"


async def test_a_killed_gateway_under_a_whole_answer(client: Client, token: str) -> None:
    infer = client.infer(TEXT, token, max_tokens=TOKENS, stream=False)
    task = asyncio.create_task(client.stubborn(infer))
    await client.known(token)
    line = await client.kill(GATEWAY)
    assert (await task).text == echoed(TEXT, TOKENS)
    await books_are_right(client, [token])
    await client.successor(line)


@pytest.mark.parametrize("child", ["registry", "roster", "reservation", "scheduler"])
async def test_a_killed_control_actor_under_many_streams(
    client: Client, token: str, child: str
) -> None:
    """The chain after it restarts, gateways included; workers stay, so the answers go on."""
    tokens = [f"{token}-{number}" for number in range(8)]
    infers = [client.infer(TEXT, each, max_tokens=TOKENS) for each in tokens]
    answers = [Answer() for _ in infers]
    tasks = [
        asyncio.create_task(client.stubborn(infer, answer))
        for infer, answer in zip(infers, answers, strict=True)
    ]
    await came(5, *answers)
    line = await client.kill(f"control/{child}")
    await asyncio.gather(*tasks)
    assert all(answer.text == echoed(TEXT, TOKENS) for answer in answers)
    await client.successor(line)
    await books_are_right(client, tokens)
    await client.ready()
    after = await client.stubborn(client.infer(TEXT, token, max_tokens=TOKENS))
    assert after.text == echoed(TEXT, TOKENS)


async def test_answers_that_end_while_reservation_is_away_are_settled(
    client: Client, token: str
) -> None:
    tokens = [f"{token}-{number}" for number in range(8)]
    infers = [client.infer("a b delay=10", each, max_tokens=TOKENS) for each in tokens]
    tasks = [asyncio.create_task(client.stubborn(infer)) for infer in infers]
    for each in tokens:
        await client.known(each)
    line = await client.kill("control/reservation")
    await asyncio.gather(*tasks)
    await client.successor(line)
    await books_are_right(client, tokens)


async def test_a_worker_killed_after_its_answer_and_before_it_was_settled(
    client: Client, token: str
) -> None:
    """The gateway, which has the answer, settles for it."""
    reservation = await client.line("control/reservation")
    for length in LENGTHS:
        job = f"{token}-{length}"
        infer = client.infer("a b delay=20", job, max_tokens=length)
        stream = client.endpoint.stream(await client.gateway(), infer)
        answer, killed = Answer(), None
        answer.add(await stream.__anext__())
        os.kill(reservation.pid, signal.SIGSTOP)  # so that nobody can settle
        try:
            async for item in stream:
                answer.add(item)
            assert answer.completed is not None
            if (await client.job(job))["state"] == "running":
                killed = await client.kill(f"workers/{(await client.job(job))['worker_id']}")
        finally:
            os.kill(reservation.pid, signal.SIGCONT)
        await books_are_right(client, [job], length)
        if killed is not None:
            await client.successor(killed)
            return
    pytest.fail("every answer was settled before the reservation was stopped")


async def test_a_worker_that_hangs_is_given_up_by_the_roster(client: Client, token: str) -> None:
    """Its connection stands, so nothing but its silence tells."""
    for length in LENGTHS:
        job = f"{token}-{length}"
        answer, reading = await begun(client, client.infer(TEXT, job, max_tokens=length))
        line = await client.line(f"workers/{(await client.job(job))['worker_id']}")
        os.kill(line.pid, signal.SIGSTOP)
        try:
            await reading
            assert answer.text == echoed(TEXT, length)
        finally:
            os.kill(line.pid, signal.SIGCONT)
        await books_are_right(client, [job], length)
        if (await client.job(job))["fence"] == 2:  # what the thawed worker says is stale
            return
    pytest.fail("every answer was over before its worker hung")


async def test_a_worker_that_is_told_to_stop_hands_its_runs_on(client: Client, token: str) -> None:
    """Draining is no loss: what is left at the deadline goes on elsewhere, exactly."""
    infer = client.infer("a b delay=50", token, max_tokens=TOKENS)
    answer, reading = await begun(client, infer)
    line = await client.line(f"workers/{(await client.job(token))['worker_id']}")
    await client.endpoint.ask(line.address, StopChild(deadline_s=2.0, reason=ExitReason.SHUTDOWN))
    await reading
    assert answer.text == echoed("a b", TOKENS)
    await books_are_right(client, [token])
    await client.successor(line)


async def test_a_front_door_that_vanishes(node: PathNode, client: Client, token: str) -> None:
    """An explicit token keeps its computation for a while, an implicit one doesn't."""
    explicit = client.infer(TEXT, token, max_tokens=TOKENS)
    implicit = client.infer(TEXT, token + "i", max_tokens=40 * TOKENS, explicit_token=False)
    async with node.client() as door:
        streams = [
            door.endpoint.stream(await door.gateway(), infer) for infer in (explicit, implicit)
        ]
        for stream in streams:
            await stream.__anext__()
        door.endpoint._hub.close()  # as a process that dies: connections end without a word
    cut = await client.settled(token + "i")
    assert cut["outcome"] == "failed"
    assert not await client.ledger(cut["id"]), "its client did not leave it"
    assert (await client.answer(explicit)).text == echoed(TEXT, TOKENS)
    await books_are_right(client, [token])
    assert (await client.job(token))["fence"] == 1


async def test_an_unfinished_stream_never_looks_complete(client: Client, token: str) -> None:
    infer = client.infer(TEXT, token, max_tokens=TOKENS)
    hold = asyncio.Event()
    answer, reading = await begun(client, infer, hold=hold)
    gateway = await client.line(GATEWAY)
    line = await client.kill("control/scheduler")
    await client.successor(gateway)
    hold.set()
    with pytest.raises((PeerLost, Draining)):
        await reading
    assert answer.completed is None
    await client.successor(line)
    await client.ready()
    await client.stubborn(infer, answer)
    assert answer.text == echoed(TEXT, TOKENS)
