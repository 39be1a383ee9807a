"""SIGKILL of supervisors, one or two at once, while answers stream: what both the proof
(`scripts/prove supervisors`) and its short version among the tests do.

The root may restart 3 children within 5 s (`SupervisorOptions`) and gives up at the fourth. So no
more than 3 kills fall into any `WINDOW_S`: three single ones in a row, or one pair. Kills that are
to have nothing to do with each other wait for longer: for who ran less than 10 s comes back later
each time (`Backoff`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from supervision.backoff import Backoff
from supervision.contracts import ChildStatus, ShowTree, Tree, TreeNode
from supervision.runtime import Endpoint
from supervision.spec import SupervisorOptions
from tests.support.node_process import Node, until
from tests.support.sse import chat, echoed
from tests.support.waiting import PatientEndpoint

INTENSITY = SupervisorOptions().intensity
WINDOW_S = SupervisorOptions().period_s + 1.0  # a death is counted when it is seen
STEADY_S = Backoff().steady_s + 0.5
CLIENTS, TOKENS = 6, 100
PROMPT = "delay=20 killed above"  # 2 s: longer than an orphaned door drains


@dataclass
class Seen:
    """What clients saw."""

    whole: int = 0
    broken: int = 0
    refused: list[str] = field(default_factory=list)  # connections; there is none to be
    answered_s: list[float] = field(default_factory=list)  # from a kill to the next good answer


class Kills:
    """Kills under traffic; any failure is an AssertionError."""

    def __init__(self, node: Node, endpoint: Endpoint, seen: Seen, bound_s: float) -> None:
        self._node, self._endpoint, self._seen, self._bound_s = node, endpoint, seen, bound_s
        self._killed: deque[float] = deque(maxlen=INTENSITY)

    async def tree(self) -> dict[str, TreeNode]:
        tree = await self._endpoint.ask(self._node.state["root"], ShowTree())
        assert isinstance(tree, Tree)
        return {child.path: child for child in tree.nodes}

    async def kill(self, *paths: str) -> None:
        """All of these at once. A new request must be answered, and the whole tree run anew with
        as many restarts as there were kills."""
        await self._turn(len(paths))
        before = await self.tree()
        began = time.monotonic()
        self._killed.extend([began] * len(paths))
        for path in paths:
            os.kill(before[path].pid, signal.SIGKILL)
        await self._answered(began)
        self._seen.answered_s.append(time.monotonic() - began)

        async def back() -> bool:
            self._alive()
            now = await self.tree()
            return all(
                path in now
                and now[path].state is ChildStatus.RUNNING
                and now[path].pid != before[path].pid
                for path in paths
            ) and before.keys() <= {
                p for p, child in now.items() if child.state is ChildStatus.RUNNING
            }

        await until(back, f"{' and '.join(paths)} run again, with all below them", self._bound_s)
        after = await self.tree()
        assert after[""].pid == before[""].pid, "the root was replaced"
        extra = {p: after[p].restarts - before[p].restarts for p in paths}
        assert set(extra.values()) == {1}, f"restarts for one kill each: {extra}"

    async def _turn(self, count: int) -> None:
        """Until `count` more kills are no more than the root may see."""
        while len(self._killed) + count > INTENSITY:
            wait_s = self._killed[0] + WINDOW_S - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._killed.popleft()
        self._alive()

    async def _answered(self, began: float) -> None:
        while True:
            self._alive()
            async with client_of(self._node, self._bound_s) as client:
                answer = await chat(client, "are you there", max_tokens=4)
            if answer.complete:
                assert answer.text.split() == echoed("are you there", 4).split()
                return
            self._saw(answer.error)
            waited_s = time.monotonic() - began
            assert waited_s < self._bound_s, f"no answer {waited_s:.1f} s after: {answer.error}"
            await asyncio.sleep(0.02)

    def _saw(self, error: str) -> None:
        if "ConnectError" in error:
            self._seen.refused.append(error)

    def _alive(self) -> None:
        assert self._node.process.poll() is None, f"the node has ended:\n{self._node.tail()}"
        assert self._node.state["pid"] == self._node.process.pid, "another `tether up` runs"

    async def ask(self, name: int) -> None:
        """One client, who asks on and on; every other one for short answers."""
        prompt = f"{PROMPT} {name}"
        tokens = TOKENS // (1 + 4 * (name % 2))
        while True:
            async with client_of(self._node, 3 * self._bound_s) as client:
                answer = await chat(client, prompt, max_tokens=tokens)
            if answer.complete:
                assert answer.text.split() == echoed(prompt, tokens).split()
                self._seen.whole += 1
            else:
                assert answer.error and not answer.done, f"half an answer as a whole: {answer}"
                self._seen.broken += 1
                self._saw(answer.error)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def killing(node: Node, seen: Seen, bound_s: float) -> AsyncIterator[Kills]:
    """A node under traffic. `bound_s` is the longest that a request may wait after a kill."""
    async with PatientEndpoint.connect(
        run_dir=node.state["run_dir"], node=node.state["node"], port=node.state["admin_port"]
    ) as endpoint:
        kills = Kills(node, endpoint, seen, bound_s)
        clients = [asyncio.create_task(kills.ask(n)) for n in range(CLIENTS)]
        try:
            yield kills
            for client in clients:
                if client.done():
                    client.result()
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def kill_all(
    node: Node,
    rounds: Sequence[tuple[str, ...]],
    seen: Seen,
    bound_s: float,
    *,
    apart_s: float = 0.0,
) -> None:
    """One round after the other: the paths that are killed at once, when all that they killed
    before has run for `apart_s` seconds."""
    async with killing(node, seen, bound_s) as kills:
        for paths in rounds:
            await asyncio.sleep(apart_s)
            await kills.kill(*paths)


def client_of(node: Node, timeout_s: float) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers=node.headers, timeout=timeout_s)
