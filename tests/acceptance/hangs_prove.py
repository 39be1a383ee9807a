"""`scripts/prove hangs [SECONDS PART…]`: each part of the request path is stopped under traffic.

A node as a real process (`tether up`) with its own PostgreSQL. SIGSTOP to one part after the other,
for 20 s, and SIGCONT to those that their supervisor hasn't killed by then, while requests with a
deadline of 30 s come in at an even rate. A client that is told 503 asks again under its idempotency
key. Shown is that nobody hears 504 before its own deadline, that each other refusal may be retried
and says so, and that each answer was billed once. Exits 1 at the first thing that is not as it
should be.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from supervision.contracts import ShowTree, Tree
from supervision.runtime import Endpoint
from tests.support.node_process import ECHO, Launcher, Node, until, write_config
from tests.support.sse import echoed
from tests.support.termination import clean_up_on_sigterm
from tests.support.waiting import PatientEndpoint

DEADLINE_S = 30.0
EVERY_S = 0.5
BEFORE_S, AFTER_S = 2.0, 3.0
TOKENS = 10
PROMPT = "what hangs delay=20"
SERVER = "the server of postgres"
VICTIMS = {
    "reservation": "control/reservation",
    "scheduler": "control/scheduler",
    "gateway": "control/gateways/0",
    "registry": "control/registry",
    "roster": "control/roster",
    "postgres": "postgres",
    SERVER: "",
}
EARLY_S = 0.05  # of a 504: how exact a client's clock is here


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


@dataclass
class Request:
    """One client, and all that it was told until it had its answer."""

    token: str
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0

    async def ask(self, client: httpx2.AsyncClient) -> None:
        began = time.monotonic()
        while not (self.told and self.told[-1] in ("200", "504")):
            if await self._once(client):
                await asyncio.sleep(1.0)  # as `Retry-After` says
        self.seconds = time.monotonic() - began

    async def _once(self, client: httpx2.AsyncClient) -> bool:
        """Shall it be asked again?"""
        began = time.monotonic()
        response = await client.post(
            "/v1/chat/completions",
            headers={"idempotency-key": self.token, "x-request-timeout-s": f"{DEADLINE_S:g}"},
            json={
                "model": "echo",
                "max_tokens": TOKENS,
                "messages": [{"role": "user", "content": PROMPT}],
            },
        )
        took = time.monotonic() - began
        status, retry = response.status_code, response.headers.get("x-should-retry")
        if status == 200:
            text = response.json()["choices"][0]["message"]["content"]
            assert text == echoed(PROMPT, TOKENS), text
            self.told.append("200")
            return False
        code = response.json()["error"]["code"]
        if status == 504:
            assert took >= DEADLINE_S - EARLY_S, f"504 after {took:.1f} s: {response.text}"
            self.told.append("504")
            return False
        assert status in (502, 503), f"{status} after {took:.1f} s: {response.text}"
        assert retry == "true", f"{code} after {took:.1f} s can't be retried: {response.text}"
        self.told.append(f"{status} {code}")
        return True


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """SIGSTOP to all of them, and SIGCONT to those that still are."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def pids_of(node: Node, endpoint: Endpoint, path: str) -> list[int]:
    if path:
        tree = await endpoint.ask(node.state["root"], ShowTree())
        assert isinstance(tree, Tree)
        return [child.pid for child in tree.nodes if child.path == path]
    (pid_file,) = (node.folder / ".tether").rglob("postmaster.pid")
    server = psutil.Process(int(pid_file.read_text().split()[0]))
    return [server.pid, *(child.pid for child in server.children(recursive=True))]


async def one(node: Node, endpoint: Endpoint, name: str, seconds: float) -> None:
    prefix = f"{name.replace(' ', '-')}-{secrets.token_hex(4)}"
    requests: list[Request] = []
    tasks: list[asyncio.Task[None]] = []
    async with httpx2.AsyncClient(
        base_url=node.url,
        headers=node.headers,
        timeout=2 * DEADLINE_S,
        limits=httpx2.Limits(max_connections=256),
    ) as client:

        async def traffic(for_s: float) -> None:
            until_s = time.monotonic() + for_s
            while time.monotonic() < until_s:
                requests.append(Request(f"{prefix}-{len(requests)}"))
                tasks.append(asyncio.create_task(requests[-1].ask(client)))
                await asyncio.sleep(EVERY_S)

        await traffic(BEFORE_S)
        pids = await pids_of(node, endpoint, VICTIMS[name])
        with stopped(pids):
            await traffic(seconds)
        await traffic(AFTER_S)
        await asyncio.gather(*tasks)

    async def settled() -> bool:
        return not await node.sql("select count(*) from leases")

    await until(settled, "no lease is left", 3 * DEADLINE_S + 60.0)
    answered = [request.token for request in requests if request.told[-1] == "200"]
    bills = await node.sql(
        "select json_object_agg(retry_token, n)::text from (select j.retry_token, count(*) n "
        "from ledger l join jobs j on j.id = l.job_id where j.retry_token = any($1) "
        "and l.output_tokens = $2 group by 1) t",
        answered,
        TOKENS,
    )
    billed: dict[str, int] = json.loads(bills or "{}")
    wrong = {token: billed.get(token, 0) for token in answered if billed.get(token) != 1}
    assert not wrong, f"not billed once: {wrong}"
    doubled = await node.sql(
        "select count(*) from (select 1 from jobs where retry_token like $1 "
        "group by retry_token having count(*) > 1) t",
        f"{prefix}-%",
    )
    assert not doubled, f"{doubled} retry tokens have more than one job"
    told = Counter(word for request in requests for word in request.told)
    worst = max(request.seconds for request in requests)
    say(
        f"{name} stopped for {seconds:g} s: {len(requests)} requests, told {dict(told)}, "
        f"{len(answered)} answered and billed once, the slowest after {worst:.1f} s"
    )


async def prove(node: Node, seconds: float, names: list[str]) -> None:
    state = node.state
    async with PatientEndpoint.connect(
        run_dir=state["run_dir"], node=state["node"], port=state["admin_port"]
    ) as endpoint:
        for name in names:
            await one(node, endpoint, name, seconds)


def main(seconds: float = 20.0, *names: str) -> None:
    launcher = Launcher()
    with tempfile.TemporaryDirectory(prefix="tether-hangs-") as folder:
        try:
            write_config(Path(folder), models=ECHO)
            node = launcher(Path(folder))
            asyncio.run(prove(node, seconds, list(names) or list(VICTIMS)))
            assert node.stop() == 0
        finally:
            launcher.close()
    say("nothing was late before its deadline, and each answer was billed once")


if __name__ == "__main__":
    clean_up_on_sigterm()
    main(*map(float, sys.argv[1:2]), *sys.argv[2:])
