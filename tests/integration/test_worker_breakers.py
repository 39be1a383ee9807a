"""Breakers of (worker, model) on a real node: what opens them, and what operators do to them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from actors.contracts import (
    Assignment,
    BreakerState,
    BreakerStates,
    Finished,
    JobState,
    Place,
    Placed,
    SetBreaker,
    ShowBreakers,
)
from actors.stores.embedded import Embedded
from supervision.errors import BadRequest, Unavailable
from tests.support.messages import key
from tests.support.path_node import Client, PathNode, echoed, running_path, until
from tests.support.waiting import PATIENCE_S

SCHEDULER = "control/scheduler"


@pytest.fixture(scope="module")
def node(server: Embedded) -> Iterator[PathNode]:
    with running_path(server) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:

        async def both() -> bool:
            return len(await breakers(made)) == 2

        await until(both)
        try:
            yield made
        finally:
            for worker in ("w1", "w2"):
                await setting(made, worker, "disabled")  # so that automatic begins anew
                await setting(made, worker, "automatic")


async def breakers(client: Client) -> dict[str, BreakerState]:
    scheduler = (await client.line(SCHEDULER)).address
    states: BreakerStates = await client.endpoint.ask(scheduler, ShowBreakers())
    assert all(state.model_ref == "echo@1" for state in states.breakers)
    return {state.worker_id: state for state in states.breakers}


async def setting(client: Client, worker: str, mode: str) -> BreakerState:
    scheduler = (await client.line(SCHEDULER)).address
    states = await client.endpoint.ask(scheduler, SetBreaker(worker_id=worker, mode=mode))
    assert len(states.breakers) == 1
    state = states.breakers[0]
    assert isinstance(state, BreakerState)
    return state


async def placed(client: Client, token: str, *, is_resume: bool = False) -> Assignment:
    scheduler = (await client.line(SCHEDULER)).address
    place = Place(
        job=key(retry_token=token, model_ref="echo@1"),
        max_tokens=1,
        deadline_s=PATIENCE_S,
        is_resume=is_resume,
    )
    answer = await client.endpoint.ask(scheduler, place)
    assert isinstance(answer, Placed)
    return answer.assignment


async def fails(client: Client, times: int, *, neutral: bool = False) -> None:
    """So many requests to w1, the other being shut, come to nothing."""
    scheduler = (await client.line(SCHEDULER)).address
    for _ in range(times):
        before = (await breakers(client))["w1"].failed
        one = await placed(client, secrets.token_hex(8))
        assert one.worker_id == "w1"
        client.endpoint.tell(
            scheduler, Finished(job_id=one.job_id, worker_id="w1", ok=False, neutral=neutral)
        )

        async def counted(before: int = before) -> bool:
            state = (await breakers(client))["w1"]
            return neutral or state.failed > before or state.state == "open"

        await until(counted)


async def test_all_workers_have_one_and_good_answers_are_counted(client: Client) -> None:
    assert set(await breakers(client)) == {"w1", "w2"}
    token = secrets.token_hex(8)
    answer = await client.answer(client.infer("one two", token, max_tokens=4))
    assert answer.text == echoed("one two", 4)

    async def counted() -> bool:
        return sum(state.calls for state in (await breakers(client)).values()) >= 1

    await until(counted)
    for state in (await breakers(client)).values():
        assert (state.mode, state.state, state.failed) == ("automatic", "closed", 0)


async def test_an_operator_shuts_one_worker_then_all_then_none(client: Client) -> None:
    assert (await setting(client, "w1", "forced_open")).until_s == -1.0
    for _ in range(8):
        assert (await placed(client, secrets.token_hex(8))).worker_id == "w2"
    await setting(client, "w2", "forced_open")
    with pytest.raises(Unavailable, match="left alone") as caught:
        await client.answer(client.infer("a", secrets.token_hex(8)))
    assert caught.value.retry_after_s
    await setting(client, "w1", "automatic")
    answer = await client.answer(client.infer("a b", secrets.token_hex(8), max_tokens=2))
    assert answer.text == "a b"


async def test_who_comes_back_is_led_to_his_job_past_all_breakers(client: Client) -> None:
    token = secrets.token_hex(8)
    runs = await placed(client, token)
    for worker in ("w1", "w2"):
        await setting(client, worker, "forced_open")
    led = await placed(client, token, is_resume=True)
    assert (led.job_id, led.worker_id) == (runs.job_id, runs.worker_id)
    assert led.state is JobState.RUNNING
    with pytest.raises(Unavailable, match="left alone"):
        await placed(client, secrets.token_hex(8), is_resume=True)


async def test_ten_failures_open_it_and_refusals_do_not(client: Client) -> None:
    await setting(client, "w2", "forced_open")
    await fails(client, 12, neutral=True)
    assert (await breakers(client))["w1"].state == "closed"
    await fails(client, 9)
    assert (await breakers(client))["w1"].state == "closed"
    for _ in range(40):  # it stays open for 5 s, which may be over on a slow machine
        await fails(client, 1)
        state = (await breakers(client))["w1"]
        if state.state != "open":
            continue
        assert 0.0 < state.until_s <= 60.0
        infer = client.infer("a", secrets.token_hex(8))
        (got,) = await asyncio.gather(client.answer(infer), return_exceptions=True)
        if isinstance(got, Unavailable):
            assert "left alone" in got.message
            break
    else:
        pytest.fail("nobody was turned away")
    await setting(client, "w1", "disabled")
    answer = await client.answer(client.infer("a b", secrets.token_hex(8), max_tokens=2))
    assert answer.text == "a b"


async def test_what_an_operator_said_outlives_the_scheduler(client: Client) -> None:
    await setting(client, "w1", "forced_open")
    await setting(client, "w2", "disabled")
    await client.successor(await client.kill(SCHEDULER))
    states = await breakers(client)
    assert (states["w1"].mode, states["w2"].mode) == ("forced_open", "disabled")
    for _ in range(4):
        assert (await placed(client, secrets.token_hex(8))).worker_id == "w2"
    await setting(client, "w1", "automatic")
    await client.successor(await client.kill(SCHEDULER))

    async def both() -> bool:
        return len(await breakers(client)) == 2

    await until(both)
    states = await breakers(client)
    assert (states["w1"].mode, states["w2"].mode) == ("automatic", "disabled")


async def test_what_operators_can_not_say(client: Client) -> None:
    scheduler = (await client.line(SCHEDULER)).address
    for wrong in (
        SetBreaker(worker_id="w1", mode="ajar"),
        SetBreaker(worker_id="nobody", mode="forced_open"),
        SetBreaker(worker_id="w1", model_ref="nothing@1", mode="forced_open"),
    ):
        with pytest.raises(BadRequest):
            await client.endpoint.ask(scheduler, wrong)
