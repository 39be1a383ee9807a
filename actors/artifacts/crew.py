"""A bounded number of tasks that share a list of work; the first that fails ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


async def in_thread(
    work: Callable[..., _R], *arguments: object, executor: Executor | None = None
) -> _R:
    """As `asyncio.to_thread`, but never returns while the thread still works, even when it is
    cancelled: what the thread uses, such as a descriptor, may be closed after it. The thread is one
    of `executor`, or of the loop."""
    future = asyncio.get_running_loop().run_in_executor(executor, work, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


async def each(
    items: Iterator[_T], work: Callable[[_T], Awaitable[None]], *, parallel: int
) -> None:
    """Do `work` for each of `items`, `parallel` at once. No task outlives the call.

    Raises:
        what `work` raised first.
    """

    async def toil() -> None:
        for item in items:  # shared: each takes what nobody has taken
            await work(item)

    crew = [asyncio.create_task(toil()) for _ in range(parallel)]
    try:
        await asyncio.gather(*crew)
    finally:
        for task in crew:
            task.cancel()
        await asyncio.gather(*crew, return_exceptions=True)
