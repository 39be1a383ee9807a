"""`scripts/prove limits [SECONDS]`: a tenant has one limit in the whole cluster.

Three nodes, each with a door, a gateway and workers, and one tenant that asks at 10 times its rate,
in turns at the three doors, for SECONDS (120): once bounded by requests a minute, once by tokens. A
bucket holds a minute's worth and fills at its rate, so burst + rate * time may be accepted, and
that is what must be, within 2 % (and within one request). Refusals are 429 with `Retry-After`.
The nodes add up in one Valkey, that of none of them, unless `--own`: then each in its own, its part
of the limit. Prints a row for each limit; exits 1 if one doesn't hold.

    scripts/prove limits [SECONDS] [--own] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.support.outside_stores import outside_valkey
from tests.support.proving import Report, run
from tests.support.small_cluster import ALL, Cluster, cluster

NODES: Final = ("n1", "n2", "n3")
TIMES: Final = 10  # its rate
NEAR: Final = 0.02
PER_MINUTE: Final = 240
WORDS, COST = 60, 65  # of an answer; its tokens with those of its prompt, about
LATE_S: Final = 0.5  # a client that sends later than that measures itself
TABLE: Final = {
    "limit": 24, "doors": 7, "asked": 7, "accepted": 10, "allowed": 9, "ratio": 8, "refused": 9,
    "other": 7, "seconds": 9,
}  # fmt: skip
LIMIT: Final = """
    UPDATE tenants SET requests_per_minute = $2, tokens_per_minute = $3, max_concurrency = $4
    WHERE id = $1
"""


@dataclass
class Asked:
    """What the tenant was told; `used` are the tokens of its answers."""

    statuses: Counter[int] = field(default_factory=Counter)
    used: int = 0
    largest: int = 0  # tokens of one request
    without_retry: int = 0
    late_s: float = 0.0  # at worst, of a request that was due
    seconds: float = 0.0


async def asks(doors: Sequence[httpx2.AsyncClient], per_second: float, seconds: float) -> Asked:
    """At an even rate, in turns at the doors, whatever the answers."""
    asked, tasks, turns = Asked(), set[asyncio.Task[None]](), itertools.cycle(doors)
    began = time.monotonic()
    for number in range(int(per_second * seconds)):
        due = began + number / per_second
        if (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        asked.late_s = max(asked.late_s, time.monotonic() - due)
        task = asyncio.create_task(_ask(next(turns), number, asked))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    asked.seconds = time.monotonic() - began
    await asyncio.gather(*tasks)
    return asked


async def _ask(door: httpx2.AsyncClient, number: int, asked: Asked) -> None:
    body = {
        "model": "echo",
        "max_tokens": WORDS,
        "messages": [{"role": "user", "content": f"request {number} of many"}],
    }
    try:
        answer = await door.post("/v1/chat/completions", json=body)
    except httpx2.HTTPError:
        asked.statuses[0] += 1
        return
    asked.statuses[answer.status_code] += 1
    if answer.status_code == 200:
        used = answer.json()["usage"]["total_tokens"]
        asked.used += used
        asked.largest = max(asked.largest, used)
    elif answer.status_code == 429:
        asked.without_retry += "retry-after" not in answer.headers


async def one(
    here: Cluster, what: str, per_minute: int, seconds: float, times: float = TIMES
) -> tuple[dict[str, Any], list[str]]:
    """One limit, of so many requests a minute or their tokens, at all doors, for a new tenant: who
    asks for the first time finds the limit that he has."""
    tenant = f"greedy-for-{what}"
    key = await here.key_of(tenant)
    rate = per_minute / 60
    per_minute *= 1 if what == "requests" else COST
    limits = (per_minute, None) if what == "requests" else (1_000_000, per_minute)
    await here.books.fetch(LIMIT, tenant, *limits, 512)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(here.client(n, key)) for n in here.members]
        asked = await asks(clients, times * rate, seconds)
    allowed = per_minute * (1 + asked.seconds / 60)
    accepted = asked.statuses[200] if what == "requests" else asked.used
    one_more = 1 if what == "requests" else asked.largest
    refused, every = asked.statuses[429], asked.statuses.total()
    faults = []
    if abs(accepted - allowed) > NEAR * allowed + one_more:
        faults.append(
            f"{accepted} {what} were accepted, and {allowed:.0f} may be: {accepted / allowed:.3f}"
        )
    if other := every - refused - asked.statuses[200]:
        faults.append(f"{other} were neither answered nor refused as 429: {asked.statuses}")
    if asked.without_retry:
        faults.append(f"{asked.without_retry} refusals without Retry-After")
    if asked.late_s > LATE_S:
        faults.append(f"a request was sent {asked.late_s:.1f} s late: this machine is too busy")
    seen = {
        "limit": f"{per_minute} {what}/min", "doors": len(clients), "asked": every,
        "accepted": accepted, "allowed": round(allowed), "ratio": f"{accepted / allowed:.3f}",
        "refused": refused, "other": other, "seconds": asked.seconds,
    }  # fmt: skip
    return seen, faults


@asynccontextmanager
async def doors(
    folder: Path, nodes: Sequence[str] = NODES, *, own: bool = False
) -> AsyncIterator[Cluster]:
    """A cluster whose nodes have all roles."""
    async with outside_valkey() as valkey:
        redis = f'[redis]\nurl = "{valkey.url}"' if valkey and not own else ""
        async with cluster(folder, dict.fromkeys(nodes, ALL), more=redis) as here:
            yield here


async def prove(folder: Path, seconds: float, report: Report, *, own: bool) -> list[str]:
    """What is not right."""
    async with doors(folder, own=own) as here:
        for what in ("requests", "tokens"):
            report.row(*await one(here, what, PER_MINUTE, seconds))
        for member in here.members.values():
            report.ended(member.id, await asyncio.to_thread(member.stop))
    return report.found


def main() -> int:
    said = argparse.ArgumentParser(prog="scripts/prove limits")
    said.add_argument("seconds", nargs="?", type=float, default=120.0)
    said.add_argument("--own", action="store_true", help="each node has a Valkey of its own")
    said.add_argument("--json", action="store_true")
    args = said.parse_args()
    report = Report("limits", TABLE, as_json=args.json)
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        return run(prove(Path(folder), args.seconds, report, own=args.own))


if __name__ == "__main__":
    sys.exit(main())
