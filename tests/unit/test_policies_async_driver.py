"""The async driver on a real loop, with pauses of milliseconds, and the actor driver."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from actors.errors import WorkerLost
from supervision.errors import BadRequest, Cancelled, DeadlineExceeded, PeerLost, Unavailable
from supervision.policies import (
    Breaker,
    Bulkhead,
    BulkheadOptions,
    Deadline,
    DeadlineOptions,
    Retry,
    RetryOptions,
    Stack,
    Timeout,
    TimeoutOptions,
)
from supervision.policies.async_driver import Attempt, run

RETRY = RetryOptions(attempts=3, initial_s=0.001, max_s=0.002)


class Parts:
    """A stack whose parts a test looks into."""

    def __init__(self, *, total_s: float = 20.0, attempt_s: float = 10.0) -> None:
        self.breaker = Breaker()
        self.bulkhead = Bulkhead(BulkheadOptions(at_once=4))
        self.stack = Stack(
            Deadline(DeadlineOptions(total_s=total_s)),
            Retry(RETRY, Random(1).random, None),
            self.breaker,
            self.bulkhead,
            Timeout(TimeoutOptions(attempt_s=attempt_s)),
        )

    def counts(self) -> tuple[int, int]:
        return self.breaker.counts(asyncio.get_running_loop().time())


async def test_a_call_that_goes_well() -> None:
    parts = Parts()

    async def operation(attempt: Attempt) -> int:
        assert parts.bulkhead.inside == 1
        assert 9 < attempt.remaining_s() <= 10
        return attempt.number

    assert await run(parts.stack, operation) == 1
    assert parts.bulkhead.inside == 0
    assert parts.counts() == (1, 0)


async def test_a_failure_is_tried_again_and_told() -> None:
    parts, told = Parts(), []

    async def operation(attempt: Attempt) -> str:
        if attempt.number < 3:
            raise WorkerLost(f"lost {attempt.number}")
        return "good"

    def on_again(error: Exception, pause_s: float) -> None:
        told.append((str(error), 0 < pause_s <= 0.002))

    assert await run(parts.stack, operation, on_again=on_again) == "good"
    assert told == [("lost 1", True), ("lost 2", True)]
    assert parts.counts() == (3, 2)


async def test_the_last_failure_is_the_callers() -> None:
    parts, errors = Parts(), [PeerLost("1"), PeerLost("2"), PeerLost("3")]

    async def operation(attempt: Attempt) -> None:
        raise errors[attempt.number - 1]

    with pytest.raises(PeerLost) as caught:
        await run(parts.stack, operation)
    assert caught.value is errors[2]
    assert parts.bulkhead.inside == 0


@pytest.mark.parametrize("error", [BadRequest("no"), ZeroDivisionError(), Cancelled("left")])
async def test_what_is_not_retried_is_raised_as_it_is(error: Exception) -> None:
    parts, attempts = Parts(), 0

    async def operation(attempt: Attempt) -> None:
        nonlocal attempts
        attempts += 1
        raise error

    with pytest.raises(type(error)) as caught:
        await run(parts.stack, operation)
    assert caught.value is error
    assert attempts == 1
    assert parts.bulkhead.inside == 0


async def test_a_hung_attempt_is_broken_off_and_the_next_one_answers() -> None:
    parts = Parts(attempt_s=0.02)
    broken_off = asyncio.Event()

    async def operation(attempt: Attempt) -> int:
        if attempt.number == 1:
            try:
                await asyncio.Event().wait()
            finally:
                broken_off.set()
        return attempt.number

    assert await run(parts.stack, operation) == 2
    assert broken_off.is_set()
    assert parts.counts() == (2, 1)


async def test_the_deadline_ends_it_whatever_it_does() -> None:
    parts = Parts(total_s=0.03)

    async def operation(attempt: Attempt) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded) as caught:
        await run(parts.stack, operation)
    assert isinstance(caught.value.__cause__, Unavailable)
    with pytest.raises(DeadlineExceeded):
        await run(parts.stack, operation, until=asyncio.get_running_loop().time())


async def test_a_caller_that_leaves_frees_everything() -> None:
    parts = Parts()
    inside = asyncio.Event()

    async def operation(attempt: Attempt) -> None:
        inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run(parts.stack, operation))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parts.bulkhead.inside == 0
    assert parts.counts() == (0, 0), "that says nothing about the target"


async def test_a_caller_that_leaves_during_a_pause_frees_everything() -> None:
    bulkhead = Bulkhead(BulkheadOptions(at_once=1))
    pausing = asyncio.Event()
    slow = Retry(RetryOptions(initial_s=60, max_s=60), Random(1).random, None)

    async def operation(attempt: Attempt) -> None:
        raise Unavailable("no")

    task = asyncio.create_task(
        run(Stack(bulkhead, slow), operation, on_again=lambda *_: pausing.set())
    )
    await pausing.wait()
    assert bulkhead.inside == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bulkhead.inside == 0


async def test_nothing_is_retried_after_the_first_chunk() -> None:
    parts, attempts = Parts(), 0

    async def operation(attempt: Attempt) -> None:
        nonlocal attempts
        attempts += 1
        attempt.began()
        raise WorkerLost("later")

    with pytest.raises(WorkerLost):
        await run(parts.stack, operation)
    assert attempts == 1
