"""What ends a request early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervision.errors import (
    Cancelled,
    DeadlineExceeded,
)
from tether.http import errors
from tether.http.cancellation import GRACE_S, Cancellation


def receiver(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive


async def never() -> Any:
    await asyncio.Event().wait()


async def wait_forever(receive: Any, deadline_s: float) -> None:
    with Cancellation(receive, deadline_s, 5.0) as line:
        line.listening()
        await never()


async def test_lifeline_ends_at_the_deadline() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlineExceeded):
        await wait_forever(never, 0.05 - GRACE_S)
    assert loop.time() - began == pytest.approx(0.05)
    await asyncio.sleep(0)  # nothing of the cancellation is left over


async def test_lifeline_ends_when_the_client_leaves() -> None:
    with pytest.raises(Cancelled):
        await wait_forever(receiver({"type": "http.disconnect"}), 30.0)


async def test_lifeline_ends_a_slow_body() -> None:
    with pytest.raises(errors.BodyTooSlow), Cancellation(never, 30.0, 0.01):
        await never()


async def test_lifeline_leaves_other_cancellations_alone() -> None:
    task = asyncio.create_task(wait_forever(never, 30.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
