"""Streams at the doors of several nodes, and what became of each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from tests.support.sse import Answer, chat, echoed

TOKENS = 60
DELAY_MS = 20
PAUSE_S = 0.2  # after a failure
SLACK_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """One request at the door of `node`, on our monotonic clock."""

    node: str
    began: float
    ended: float
    answer: Answer
    whole: bool


@dataclass
class Load:
    """`streams` clients at each of `doors` (node → URL), each with one request after the other."""

    doors: Mapping[str, str]
    key: str
    streams: int = 8
    word: str = "request"  # of every prompt
    outcomes: list[Outcome] = field(default_factory=list)
    absences: list[tuple[str, float, float]] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _over: bool = False

    def start(self) -> None:
        numbers = itertools.count()
        for node in self.doors:
            for _ in range(self.streams):
                self._tasks.append(asyncio.create_task(self._client(node, numbers)))

    async def stop(self) -> None:
        """What runs is waited for."""
        self._over = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 120)

    def absent(self, node: str, began: float, ended: float) -> None:
        """The door of this node could not be counted upon in that time."""
        self.absences.append((node, began, ended))

    def lost(self, since: float = 0.0) -> list[Outcome]:
        """Requests that failed, and were not in flight at the door of a node that was away."""
        return [
            o
            for o in self.outcomes
            if o.began >= since
            and not o.whole
            and not any(
                o.node == node and o.ended >= began and o.began <= ended + SLACK_S
                for node, began, ended in self.absences
            )
        ]

    def whole(self, since: float = 0.0) -> int:
        return sum(o.whole and o.began >= since for o in self.outcomes)

    async def _client(self, node: str, numbers: itertools.count[int]) -> None:
        async with httpx2.AsyncClient(
            base_url=self.doors[node],
            headers={"authorization": f"Bearer {self.key}"},
            timeout=httpx2.Timeout(60, connect=30),  # on a busy machine a door is slow to say yes
        ) as client:
            while not self._over:
                prompt = f"delay={DELAY_MS} {self.word} {next(numbers)} of {node}"
                began = time.monotonic()
                answer = await chat(client, prompt, max_tokens=TOKENS)
                whole = answer.complete and answer.text == echoed(prompt, TOKENS)
                self.outcomes.append(Outcome(node, began, time.monotonic(), answer, whole))
                if not whole:
                    await asyncio.sleep(PAUSE_S)
