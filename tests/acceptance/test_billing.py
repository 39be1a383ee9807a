"""The table of docs/billing.md, as far as a real node can be brought to its rows."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx2
import pytest

from tests.support.node_process import Launcher, Node, until, write_config
from tests.support.sse import chat
from tests.support.waiting import PATIENCE_S

STEP_MS = 20
LONG = 1000  # tokens: 20 s
BILL = """
    SELECT j.state, j.outcome, count(l.job_id)::integer AS entries,
        coalesce(sum(l.prompt_tokens), 0)::integer AS prompt,
        coalesce(sum(l.output_tokens), 0)::integer AS output
    FROM jobs j LEFT JOIN ledger l ON l.job_id = j.id WHERE j.retry_token = $1
    GROUP BY j.state, j.outcome
"""


class Bill(NamedTuple):
    outcome: str
    entries: int
    prompt: int
    output: int


async def bill_of(node: Node, token: str) -> Bill:
    """Once the job is settled."""
    database = await asyncpg.connect(node.owner_dsn)
    try:

        async def settled() -> bool:
            row = await database.fetchrow(BILL, token)
            return row is not None and row["state"] == "settled"

        await until(settled, f"the job of {token} is settled")
        row = await database.fetchrow(BILL, token)
        assert row is not None
        return Bill(row["outcome"], row["entries"], row["prompt"], row["output"])
    finally:
        await database.close()


def body(prompt: str, tokens: int = LONG, **more: Any) -> dict[str, Any]:
    return {
        "model": "echo",
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": f"delay={STEP_MS} {prompt}"}],
        **more,
    }


async def computed(node: Node, token: str) -> None:
    """Returns when an engine has been at it for a while: a whole answer shows nothing before."""

    async def runs() -> bool:
        database = await asyncpg.connect(node.owner_dsn)
        try:
            query = "SELECT count(*) FROM jobs WHERE retry_token = $1"
            return bool(await database.fetchval(query, token))
        finally:
            await database.close()

    await until(runs, "the job is reserved")
    await asyncio.sleep(0.5)  # no event tells of tokens that nobody sees


async def test_a_stream_that_its_own_deadline_cuts_is_billed_by_what_was_received(
    http: httpx2.AsyncClient, echo_node: Node
) -> None:
    for _ in range(3):
        answer = await chat(
            http, f"delay={STEP_MS} cut", max_tokens=LONG, headers={"x-request-timeout-s": "1"}
        )
        assert "deadline" in answer.error
        received = len(answer.text.split())
        assert received > 10
        bill = await bill_of(echo_node, answer.token)
        assert (bill.outcome, bill.entries, bill.output) == ("failed", 1, received)
        assert bill.prompt > 0


async def test_a_whole_answer_that_its_own_deadline_cuts_is_billed_by_what_was_computed(
    http: httpx2.AsyncClient, echo_node: Node
) -> None:
    headers = {"x-request-timeout-s": "1", "idempotency-key": "late-whole"}
    answer = await http.post("/v1/chat/completions", json=body("late"), headers=headers)
    assert answer.status_code == 504
    bill = await bill_of(echo_node, "late-whole")
    assert (bill.outcome, bill.entries) == ("failed", 1)
    assert 10 < bill.output <= 60
    assert bill.prompt > 0


async def test_a_stream_that_its_client_leaves_is_billed_by_what_was_handed_out(
    http: httpx2.AsyncClient, echo_node: Node
) -> None:
    received = 0
    headers = {"idempotency-key": "left-stream"}
    async with http.stream(
        "POST", "/v1/chat/completions", json=body("left", stream=True), headers=headers
    ) as response:
        async for line in response.aiter_lines():
            received += "content" in line
            if received == 20:
                break
    bill = await bill_of(echo_node, "left-stream")
    assert (bill.outcome, bill.entries) == ("cancelled", 1)
    assert received - 2 <= bill.output < LONG
    assert bill.prompt > 0


async def test_a_whole_answer_that_its_client_leaves_is_billed_by_what_was_computed(
    echo_node: Node,
) -> None:
    headers = {**echo_node.headers, "idempotency-key": "left-whole"}
    async with httpx2.AsyncClient(base_url=echo_node.url, headers=headers) as client:
        asked = asyncio.create_task(client.post("/v1/chat/completions", json=body("left whole")))
        await computed(echo_node, "left-whole")
        asked.cancel()
        await asyncio.wait([asked])
    bill = await bill_of(echo_node, "left-whole")
    assert (bill.outcome, bill.entries) == ("cancelled", 1)
    assert 5 < bill.output < LONG


async def test_what_is_joined_or_asked_again_is_billed_once(
    http: httpx2.AsyncClient, echo_node: Node
) -> None:
    headers = {"idempotency-key": "joined"}
    ask = body("joined", tokens=20)
    posts = (http.post("/v1/chat/completions", json=ask, headers=headers) for _ in range(5))
    answers = [answer.json()["usage"] for answer in await asyncio.gather(*posts)]
    answers.append(
        (await http.post("/v1/chat/completions", json=ask, headers=headers)).json()["usage"]
    )
    bill = await bill_of(echo_node, "joined")
    assert (bill.outcome, bill.entries, bill.output) == ("completed", 1, 20)
    assert all(usage["completion_tokens"] == 20 for usage in answers)
    assert all(usage["prompt_tokens"] == bill.prompt for usage in answers)


async def test_what_is_refused_has_no_job(http: httpx2.AsyncClient, echo_node: Node) -> None:
    headers = {"idempotency-key": "refused"}
    ask = body("refused", tokens=100_000)
    assert (await http.post("/v1/chat/completions", json=ask, headers=headers)).status_code == 400
    assert await echo_node.sql("SELECT count(*) FROM jobs WHERE retry_token = 'refused'") == 0


async def test_what_a_lost_front_door_cuts_is_free(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = await asyncio.to_thread(launch, tmp_path)
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S
    ) as client:
        token = ""
        with suppress(httpx2.TransportError):
            async with client.stream(
                "POST", "/v1/chat/completions", json=body("lost", stream=True)
            ) as response:
                async for line in response.aiter_lines():
                    if not token and line.startswith("data: "):
                        token = line.partition("chatcmpl-")[2].partition('"')[0]
                        os.kill(int(node.tree()["doors/0"]["pid"]), signal.SIGKILL)
            pytest.fail("the answer came to its end")
    bill = await bill_of(node, token)
    assert (bill.outcome, bill.entries) == ("failed", 0)
    assert await asyncio.to_thread(node.stop) == 0


async def test_whole_answers_that_a_stop_cuts_are_free_and_are_told_so(
    launch: Launcher, tmp_path: Path
) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("[node]\n", "[node]\nstop_deadline_s = 2.0\n"))
    node = await asyncio.to_thread(launch, tmp_path)
    keys = [f"cut-{n}" for n in range(4)]
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=PATIENCE_S
    ) as client:
        asked = [
            asyncio.create_task(
                client.post(
                    "/v1/chat/completions", json=body(key), headers={"idempotency-key": key}
                )
            )
            for key in keys
        ]
        for key in keys:
            await computed(node, key)
        began = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)
    assert time.monotonic() - began > 1.0, "they had their time"
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "draining"
        assert "nothing of it is billed" in answer.json()["error"]["message"]
    assert await asyncio.to_thread(node.process.wait, 2 * PATIENCE_S) == 0
    again = launch.start(tmp_path)
    await asyncio.to_thread(again.wait_ready)
    again.key = node.key
    for key in keys:
        bill = await bill_of(again, key)
        assert (bill.outcome, bill.entries) == ("failed", 0)
    assert await asyncio.to_thread(again.stop) == 0
