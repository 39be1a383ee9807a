"""The writing end of a stream, where its generator takes long to close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from actors.contracts import Chunk
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.streams import Producer


class HangsAtItsEnd:
    """A generator that raises, and whose closing takes for ever."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()

    def __aiter__(self) -> HangsAtItsEnd:
        return self

    async def __anext__(self) -> Chunk:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closing.set()
        await asyncio.Event().wait()


async def test_a_generator_that_hangs_while_it_closes_can_be_cancelled() -> None:
    hub = SimpleNamespace(loop=asyncio.get_running_loop(), address="n/a/0")
    peer: Any = SimpleNamespace(hub=hub, send=lambda data: None, address="n/b/0")
    producer = Producer(peer, 1, 1)
    items = HangsAtItsEnd()
    generator: AsyncGenerator[Any, None] = items  # type: ignore[assignment]
    task = producer.run(generator)
    await items.closing.wait()
    producer.cancel(CancelCause.STOPPING)
    async with asyncio.timeout(10):
        await asyncio.wait([task])
    assert task.cancelled()
