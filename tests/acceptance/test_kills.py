"""kill -9 of one process after the other while answers stream.

Each comes back under its supervisor, nobody is told a half answer as a whole one, and the ledger
is even in the end. `TETHER_KILL_ROUNDS` repeats it (scripts/prove kills).
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from supervision.contracts import ChildStatus, Tree, WatchTree
from supervision.runtime import Endpoint
from tests.support.node_process import ECHO, Launcher, Node, until, write_config
from tests.support.sse import Answer, chat, echoed
from tests.support.waiting import PATIENCE_S, PatientEndpoint

VICTIMS = {
    "gateway": "control/gateways/0",
    "scheduler": "control/scheduler",
    "reservation": "control/reservation",
    "registry": "control/registry",
    "worker": "workers/echo-0",
    "front door": "doors/0",
    "metrics": "metrics",
    "valkey": "valkey",
}
ROUNDS = int(os.environ.get("TETHER_KILL_ROUNDS", "1"))
STREAMS, TOKENS = 8, 200
READY_S = 2 * PATIENCE_S
SPACING_S = (
    2.0  # between two kills of the same child: more than 3 in 5 s and its supervisor gives up
)
_to_ready: dict[str, list[float]] = {name: [] for name in VICTIMS}
_completed: dict[str, int] = dict.fromkeys(VICTIMS, 0)


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node with two workers, so that one can take over from the other."""
    folder = tmp_path_factory.mktemp("kills")
    write_config(folder, models=ECHO + "count = 2\n")
    return launch(folder)


@pytest.fixture
async def endpoint(node: Node) -> AsyncIterator[Endpoint]:
    state = node.state
    async with PatientEndpoint.connect(
        run_dir=state["run_dir"], node=state["node"], port=state["admin_port"]
    ) as endpoint:
        yield endpoint


@pytest.mark.timeout(300 * ROUNDS)
@pytest.mark.parametrize("name", VICTIMS)
async def test_a_kill_while_answers_stream(
    node: Node, endpoint: Endpoint, name: str, measured: list[str]
) -> None:
    for _ in range(ROUNDS):
        spaced = asyncio.create_task(asyncio.sleep(SPACING_S))
        await _kill_once(node, endpoint, name)
        await spaced
    times = _to_ready[name]
    measured.append(
        f"kill {name}: {_completed[name]} of {STREAMS * ROUNDS} streams were completed; "
        f"ready again after {statistics.median(times):.2f} s "
        f"(median of {len(times)}, worst {max(times):.2f} s)"
    )


async def _kill_once(node: Node, endpoint: Endpoint, name: str) -> None:
    path = VICTIMS[name]
    async with httpx2.AsyncClient(
        base_url=node.url,
        headers=node.headers,
        timeout=3 * PATIENCE_S,
        limits=httpx2.Limits(max_connections=64),
    ) as client:
        before = await node.sql("select count(*) from jobs")
        streams = [
            asyncio.create_task(chat(client, f"delay=20 kill {name} {n}", max_tokens=TOKENS))
            for n in range(STREAMS)
        ]

        async def all_run() -> bool:
            return bool(await node.sql("select count(*) from jobs") == before + STREAMS)

        await until(all_run, "all streams are reserved")
        seconds = await _kill(node, endpoint, path)
        _to_ready[name].append(seconds)
        answers = await asyncio.gather(*streams)
    await _next_request_succeeds(node)
    for n, answer in enumerate(answers):
        _never_half_as_whole(answer, f"delay=20 kill {name} {n}")
    _completed[name] += sum(answer.complete for answer in answers)

    async def settled() -> bool:
        leases = await node.sql("select count(*) from leases")
        jobs = await node.sql("select count(*) from jobs where state <> 'settled'")
        return bool(leases == 0 and jobs == 0)

    await until(settled, "no lease and no unsettled job is left", 2 * PATIENCE_S)


async def _kill(node: Node, endpoint: Endpoint, path: str) -> float:
    """SIGKILL what runs at `path`; seconds until the whole tree runs again, with a new process
    there."""
    stream = endpoint.stream(node.state["root"], WatchTree())
    async with asyncio.timeout(READY_S):
        before = 0
        began = 0.0
        async for tree in stream:
            assert isinstance(tree, Tree)
            now = {child.path: child for child in tree.nodes}
            if not before:
                before = now[path].pid
                began = time.monotonic()
                os.kill(before, signal.SIGKILL)
            elif (
                path in now
                and now[path].pid not in (0, before)
                and all(child.state is ChildStatus.RUNNING for child in tree.nodes)
            ):
                return time.monotonic() - began
    raise AssertionError("the root closed its stream")


async def _next_request_succeeds(node: Node) -> None:
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S
    ) as client:
        answer = await chat(client, "are you there", max_tokens=6)
    assert answer.complete, answer
    assert answer.text.split() == echoed("are you there", 6).split()


def _never_half_as_whole(answer: Answer, prompt: str) -> None:
    if answer.complete:
        assert answer.text.split() == echoed(prompt, TOKENS).split()
        assert answer.usage["completion_tokens"] == TOKENS
    else:
        assert answer.error, f"an answer broke off without a word: {answer}"
        assert not answer.done


def test_all_were_back(node: Node, measured: list[str]) -> None:
    times = sorted(seconds for each in _to_ready.values() for seconds in each)
    assert len(times) == ROUNDS * len(VICTIMS)
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    measured.append(f"kill -9 to ready, p95 of {len(times)}: {p95:.2f} s")
    assert node.stop() == 0
