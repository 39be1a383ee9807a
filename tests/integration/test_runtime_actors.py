"""Asks, streams, errors, bounds, children and ends of actors in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

from actors.errors import ContextExceeded
from supervision.errors import (
    Forbidden,
    Internal,
    NoAnswer,
    Overloaded,
    PeerLost,
    ProtocolError,
    RateLimited,
    Unavailable,
)
from supervision.runtime import Address, Endpoint
from tests.support.runtime_actors import (
    Broken,
    Echo,
    Gated,
    Late,
    Parent,
    RtAdopt,
    RtCount,
    RtCrash,
    RtCreate,
    RtCreated,
    RtExit,
    RtFail,
    RtNothing,
    RtPing,
    RtPong,
    RtRead,
    RtReport,
    RtReported,
    RtSync,
    RtUnanswered,
    Stubborn,
    Threaded,
)
from tests.support.runtime_node import Node, alive, running_node, wait_for
from tests.support.waiting import NEVER_S, PATIENCE_S, PatientEndpoint, until


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as started:
        yield started


@pytest_asyncio.fixture
async def endpoint(node: Node) -> AsyncIterator[Endpoint]:
    async with node.endpoint() as connected:
        yield connected


@pytest_asyncio.fixture
async def echo(endpoint: Endpoint) -> AsyncIterator[Address]:
    address = await endpoint.create(Echo)
    yield address
    kill(address)


def kill(address: Address) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(address.pid, signal.SIGKILL)


async def notes(endpoint: Endpoint, address: Address) -> list[str]:
    return list((await endpoint.ask(address, RtReport())).notes)


async def noted(endpoint: Endpoint, address: Address, word: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for note in await notes(endpoint, address):
                if word in note:
                    return note


async def runs_out(
    ask: Callable[[float], Awaitable[object]], endpoint: Endpoint, address: Address
) -> None:
    """The time of `ask(timeout)` ends while its handler runs at `address`, which hears of it once.
    Where it didn't come to the handler in time, it is asked again, with more."""
    for asked, timeout in enumerate((0.05, 0.5, 5.0, 30.0), 1):
        began = time.monotonic()
        with pytest.raises(NoAnswer):
            await ask(timeout)
        assert time.monotonic() - began > timeout - 0.01
        await endpoint.ask(address, RtPing(delay_s=0.1))  # longer than a handler cleans up
        if seen := await notes(endpoint, address):
            assert set(seen) == {"ping cancelled"}
            assert len(seen) <= asked
            return
    raise AssertionError("the handler was not cancelled")


async def test_asks_are_answered_by_sync_and_async_handlers(
    endpoint: Endpoint, echo: Address
) -> None:
    assert await endpoint.ask(echo, RtSync(number=1)) == RtPong(number=1)
    assert await endpoint.ask(str(echo), RtPing(number=2)) == RtPong(number=2)
    assert await endpoint.ask(echo, RtNothing()) is None


async def test_many_asks_at_once_find_their_own_answers(endpoint: Endpoint, echo: Address) -> None:
    answers = await asyncio.gather(
        *(endpoint.ask(echo, RtSync(number=n), timeout=PATIENCE_S) for n in range(2000))
    )
    assert [answer.number for answer in answers] == list(range(2000))


async def test_errors_arrive_as_what_was_raised(endpoint: Endpoint, echo: Address) -> None:
    with pytest.raises(RateLimited, match="too much") as caught:
        await endpoint.ask(echo, RtFail(how="rate"))
    assert (caught.value.retry_after_s, caught.value.param) == (2.5, "tokens")
    with pytest.raises(ContextExceeded):
        await endpoint.ask(echo, RtFail(how="context"))


async def test_a_bug_is_internal_keeps_its_text_and_the_actor_lives(
    endpoint: Endpoint, echo: Address
) -> None:
    with pytest.raises(Internal) as caught:
        await endpoint.ask(echo, RtFail(how="bug"))
    assert "ValueError" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert (await endpoint.ask(echo, RtSync(number=3))).number == 3


async def test_what_nobody_answers_is_a_protocol_error(endpoint: Endpoint, echo: Address) -> None:
    with pytest.raises(ProtocolError, match="RtUnanswered"):
        await endpoint.ask(echo, RtUnanswered())
    with pytest.raises(ProtocolError, match="opens no stream"):
        async for _ in endpoint.stream(echo, RtSync(number=1)):
            pass
    with pytest.raises(ProtocolError, match="opens a stream"):
        await endpoint.ask(echo, RtCount(items=1))
    with pytest.raises(ProtocolError, match="answers no contracts"):
        await endpoint.ask(endpoint.address, RtSync(number=1))  # an endpoint, and oneself
    assert (await endpoint.ask(echo, RtSync(number=3))).number == 3


async def test_a_deadline_ends_the_ask_and_the_handler(endpoint: Endpoint, echo: Address) -> None:
    ping = RtPing(delay_s=NEVER_S)
    await runs_out(lambda timeout: endpoint.ask(echo, ping, timeout), endpoint, echo)


async def test_a_cancelled_ask_cancels_its_handler(endpoint: Endpoint, echo: Address) -> None:
    task = asyncio.create_task(endpoint.ask(echo, RtPing(delay_s=NEVER_S)))
    await endpoint.ask(echo, RtSync(number=0))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await noted(endpoint, echo, "ping") == "ping cancelled"


async def test_more_than_max_handlers_is_overloaded(endpoint: Endpoint, echo: Address) -> None:
    busy = [
        asyncio.create_task(endpoint.ask(echo, RtPing(delay_s=NEVER_S)))
        for _ in range(Echo.max_handlers)
    ]
    await endpoint.ask(echo, RtSync(number=0))
    with pytest.raises(Overloaded):
        await endpoint.ask(echo, RtPing())
    with pytest.raises(Overloaded):
        async for _ in endpoint.stream(echo, RtCount(items=1)):
            pass
    assert (await endpoint.ask(echo, RtSync(number=5))).number == 5  # takes no task
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    await noted(endpoint, echo, "ping")
    assert (await endpoint.ask(echo, RtPing(number=6))).number == 6


async def test_a_stream_gives_all_items_in_order(endpoint: Endpoint, echo: Address) -> None:
    for credit in (1, 2, 64):
        got = [i.number async for i in endpoint.stream(echo, RtCount(items=500), credit=credit)]
        assert got == list(range(500))
    assert [i async for i in endpoint.stream(echo, RtCount(items=0))] == []


async def test_a_stream_raises_what_its_writer_raised(endpoint: Endpoint, echo: Address) -> None:
    stream = endpoint.stream(echo, RtCount(items=10, fail_at=3))
    assert [(await anext(stream)).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RateLimited, match="no more"):
        await anext(stream)


async def test_credit_bounds_what_a_writer_makes(endpoint: Endpoint, echo: Address) -> None:
    stream = endpoint.stream(echo, RtCount(items=1_000_000), credit=8)
    assert (await anext(stream)).number == 0
    await endpoint.ask(echo, RtSync(number=0))  # all that was granted has been written by now
    await stream.aclose()
    await stream.aclose()
    # 8 granted, one more made and held back.
    assert await noted(endpoint, echo, "count cancelled") == "count cancelled at 8"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_breaking_out_of_a_stream_cancels_its_writer(
    endpoint: Endpoint, echo: Address
) -> None:
    async for item in endpoint.stream(echo, RtCount(items=1_000_000, delay_s=0.001)):
        if item.number == 2:
            break
    assert "count cancelled at" in await noted(endpoint, echo, "count cancelled")


async def test_a_writer_hears_that_its_reader_died(endpoint: Endpoint, echo: Address) -> None:
    reader = await endpoint.create(Echo)
    await endpoint.ask(reader, RtRead(address=str(echo), items=3))
    kill(reader)
    assert "count peer_lost at" in await noted(endpoint, echo, "peer_lost")


async def test_a_killed_actor_is_lost_to_all_who_wait_for_it(endpoint: Endpoint) -> None:
    echo = await endpoint.create(Echo)
    stream = endpoint.stream(echo, RtCount(items=10**9, delay_s=0.001))
    await anext(stream)
    asked = asyncio.create_task(endpoint.ask(echo, RtPing(delay_s=NEVER_S)))
    await endpoint.ask(echo, RtSync(number=0))
    gone = asyncio.Event()
    endpoint.watch(echo, gone.set)
    never = asyncio.Event()
    endpoint.watch(echo, never.set)()
    kill(echo)
    with pytest.raises(PeerLost):
        await asked
    with pytest.raises(PeerLost):
        async for _ in stream:
            pass
    await gone.wait()
    assert not never.is_set()
    with pytest.raises(PeerLost):
        await endpoint.ask(echo, RtSync(number=0))
    endpoint.tell(echo, RtSync(number=0))  # is lost without a sign
    again = asyncio.Event()
    endpoint.watch(echo, again.set)
    await asyncio.wait_for(again.wait(), PATIENCE_S)


async def test_large_messages_pass_and_too_large_ones_are_refused(
    endpoint: Endpoint, echo: Address
) -> None:
    large = "x" * (5 << 20)
    assert (await endpoint.ask(echo, RtPing(payload=large))).payload == large
    got = 0
    async for item in endpoint.stream(echo, RtCount(items=20, payload="y" * (1 << 20)), credit=4):
        got += len(item.payload)
    assert got == 20 << 20
    with pytest.raises(ProtocolError, match="too large"):
        await endpoint.ask(echo, RtPing(payload="x" * (17 << 20)))
    assert (await endpoint.ask(echo, RtSync(number=1))).number == 1


async def test_contracts_wait_until_the_actor_has_started(node: Node, endpoint: Endpoint) -> None:
    gated = await endpoint.create(Gated)
    stream = endpoint.stream(gated, RtCount(items=1000))
    asked = asyncio.create_task(endpoint.ask(gated, RtNothing()))
    await asyncio.sleep(0)
    stream.close()
    asked.cancel()
    reported = asyncio.create_task(endpoint.ask(gated, RtReport()))
    await until(lambda: not endpoint._hub.pending)
    assert not reported.done()
    (node.run_dir / "gate").touch()
    assert (await reported) == RtReported(notes=("started",))
    kill(gated)


async def test_a_handler_is_cancelled_once(node: Node, endpoint: Endpoint, echo: Address) -> None:
    """Its asker's process ends while it cleans up after its cancellation."""

    async def ask(timeout: float) -> None:
        async with node.endpoint() as other:
            await other.ask(echo, RtPing(delay_s=NEVER_S), timeout)

    await runs_out(ask, endpoint, echo)


async def test_an_actor_that_cannot_start_says_so_and_ends(endpoint: Endpoint) -> None:
    broken = await endpoint.create(Broken)
    with pytest.raises(Unavailable):
        await endpoint.ask(broken, RtSync(number=1))
    wait_for(lambda: not alive(broken.pid))


async def test_an_orderly_exit_runs_stopping_once(endpoint: Endpoint, echo: Address) -> None:
    late = await endpoint.create(Late)
    await endpoint.ask(late, RtAdopt(parent=str(echo)))
    gone = asyncio.Event()
    endpoint.watch(late, gone.set)
    task = asyncio.create_task(endpoint.ask(late, RtPing(delay_s=NEVER_S)))
    assert (await endpoint.ask(late, RtExit(reason="test"))).number == 0
    with pytest.raises(Unavailable):
        await task
    await asyncio.wait_for(gone.wait(), PATIENCE_S)
    wait_for(lambda: not alive(late.pid))
    await noted(endpoint, echo, "nothing")
    assert await notes(endpoint, echo) == ["nothing"]


async def test_stopping_is_bounded(endpoint: Endpoint) -> None:
    stubborn = await endpoint.create(Stubborn)
    await endpoint.ask(stubborn, RtExit(reason="test"))
    wait_for(lambda: not alive(stubborn.pid))


async def test_sigterm_is_an_orderly_exit(endpoint: Endpoint) -> None:
    echo = await endpoint.create(Echo)
    task = asyncio.create_task(endpoint.ask(echo, RtPing(delay_s=NEVER_S)))
    await endpoint.ask(echo, RtSync(number=0))
    os.kill(echo.pid, signal.SIGTERM)
    with pytest.raises(Unavailable):
        await task
    wait_for(lambda: not alive(echo.pid))


async def test_a_thread_that_wont_end_does_not_keep_the_process(endpoint: Endpoint) -> None:
    threaded = await endpoint.create(Threaded)
    await endpoint.ask(threaded, RtExit(reason="test"))
    wait_for(lambda: not alive(threaded.pid))


@pytest.mark.parametrize("how", ["kill", "crash", "exit"])
async def test_a_parent_hears_of_its_childs_exit_once(endpoint: Endpoint, how: str) -> None:
    parent = await endpoint.create(Parent)
    made: RtCreated = await endpoint.ask(parent, RtCreate(kind="echo"))
    child = Address.parse(made.address)
    assert made.pid == child.pid != parent.pid
    assert (await endpoint.ask(child, RtSync(number=9))).number == 9
    if how == "kill":
        kill(child)
    elif how == "crash":
        with pytest.raises(PeerLost):
            await endpoint.ask(child, RtCrash())
    else:
        await endpoint.ask(child, RtExit(reason="test"))
    await noted(endpoint, parent, "exited")
    await noted(endpoint, parent, "watched")
    wait_for(lambda: not alive(child.pid))
    await endpoint.ask(parent, RtSync(number=0))
    seen = await notes(endpoint, parent)
    assert [note.split()[:2] for note in seen if "exited" in note] == [["exited", made.address]]
    assert seen.count("watched") == 1
    kill(parent)


async def test_a_child_that_never_comes_up_is_unavailable(endpoint: Endpoint) -> None:
    parent = await endpoint.create(Parent)
    with pytest.raises(Unavailable):
        await endpoint.ask(parent, RtCreate(kind="dies"))
    # One that came up and then couldn't be made is a child that exited.
    made = await endpoint.ask(parent, RtCreate(kind="unborn"))
    assert made.address in await noted(endpoint, parent, "exited")
    assert (await endpoint.ask(parent, RtSync(number=0))).number == 0
    kill(parent)


async def test_children_end_with_their_parent(endpoint: Endpoint) -> None:
    parent = await endpoint.create(Parent)
    made: RtCreated = await endpoint.ask(parent, RtCreate(kind="echo"))
    kill(parent)
    wait_for(lambda: not alive(made.pid))


async def test_a_class_that_is_not_on_the_list_is_forbidden(endpoint: Endpoint) -> None:
    with pytest.raises(Forbidden):
        await endpoint.create("shutil.rmtree")
    with pytest.raises(Unavailable):
        await endpoint.create("tests.support.runtime_actors.NoSuchActor")


async def test_global_names(endpoint: Endpoint) -> None:
    assert await endpoint.lookup("someone") is None
    made = await endpoint.create(Echo, global_name="someone")
    assert await endpoint.lookup("someone") == made
    assert await endpoint.create(Echo, global_name="someone") == made
    with pytest.raises(Unavailable):
        await endpoint.create("tests.support.runtime_actors.NoSuchActor", global_name="other")
    other = await endpoint.create(Echo, global_name="other")  # the failure didn't take the name
    assert other != made
    kill(made)
    kill(other)


async def test_the_admin_says_when_a_process_dies_before_it_is_up(endpoint: Endpoint) -> None:
    with pytest.raises(Unavailable, match="before it was up"):
        await endpoint.create("tests.support.runtime_dies.Never")


async def test_an_endpoint_that_closes_cancels_what_it_asked(node: Node, echo: Address) -> None:
    other = node.endpoint()
    async with other:
        task = asyncio.create_task(other.ask(echo, RtPing(delay_s=NEVER_S)))
        await other.ask(echo, RtSync(number=0))
    with pytest.raises(PeerLost):
        await task
    async with node.endpoint() as third:
        assert await noted(third, echo, "ping") == "ping peer_lost"


async def test_no_node_is_unavailable(node: Node) -> None:
    with pytest.raises(Unavailable, match="n2"):
        async with PatientEndpoint.connect(run_dir=str(node.run_dir), node="n2", timeout=0.2):
            pass
