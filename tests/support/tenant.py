"""A tenant of a node over HTTP, who wants to be answered every time, and how long that takes."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.support.raw_http import Raw, chat, request

PACE_S: Final = 0.02  # from one request to the next, whether that was answered or not
KEPT: Final = 4  # connections; every fourth request opens a new one


@dataclass
class Seen:
    """What the tenant has seen; times in seconds, sorted."""

    statuses: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        return self.times[max(0, math.ceil(share * len(self.times)) - 1)]


class Tenant:
    """Asks for chats of a few tokens at a steady pace."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._request = request(
            "POST", "/v1/chat/completions", chat("a b c"), authorization=f"Bearer {key}"
        )
        self._idle: list[Raw] = []

    async def asks(self, seconds: float) -> Seen:
        """For that long, and until all is answered."""
        seen, tasks = Seen(), set[asyncio.Task[None]]()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(int(seconds / PACE_S)):
            await asyncio.sleep(began + number * PACE_S - loop.time())
            task = asyncio.create_task(self._ask(seen, new=number % 4 == 0))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        seen.times.sort()
        return seen

    async def _ask(self, seen: Seen, *, new: bool) -> None:
        before = time.perf_counter()
        try:
            raw = await Raw.open(self._port) if new or not self._idle else self._idle.pop()
            raw.write(self._request)
            status, _ = await raw.answer()
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.statuses[type(error).__name__] += 1
            return
        seen.times.append(time.perf_counter() - before)
        seen.statuses[str(status)] += 1
        if len(self._idle) < KEPT:
            self._idle.append(raw)
        else:
            raw.writer.close()

    def close(self) -> None:
        for raw in self._idle:
            raw.writer.close()
