"""`scripts/prove budgets [SECONDS]`: a budget that many share is never overrun, and refuses nobody
who fits, under any kill.

Three nodes with all roles, one PostgreSQL, and 64 writers at their doors for SECONDS (60), whose
tenant has one budget in money: about as much as half of them may come to at a time, and now and
then an operator adds what was spent. They ask whole and streamed, with `max_tokens` and without,
twice under one key, hang up, and have too little time. Every second something is killed, drawn
from reservations, gateways, workers, connections and PostgreSQL's backends.

PostgreSQL writes down how the budget stands after each statement. In all of that history spent and
reserved are never more than the amount; whoever was refused needed more than there was left at that
moment; and when nothing runs any more nothing is reserved, no lease is left, and what is spent is
what the ledger says, which is what was delivered. Exits 1 if it isn't so.

    scripts/prove budgets [SECONDS] [--nodes 3] [--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.acceptance.limits_prove import LIMIT, NODES, doors
from tests.acceptance.money_prove import audited, flat
from tests.support.bills import Books
from tests.support.budget_history import (
    RECORD,
    Refusal,
    Stand,
    overruns,
    recorded,
    wrong_refusals,
)
from tests.support.buyer import Ended, Purchase, buy
from tests.support.cluster_kills import Killer
from tests.support.cluster_process import Member
from tests.support.orders import CHAT, TEXT, Kind, Order, drawn
from tests.support.proving import Report, run
from tests.support.small_cluster import Cluster

WRITERS: Final = 64
EVERY_S: Final = 1.0  # from kill to kill
AGAIN_S: Final = (0.1, 0.6)  # from a refusal to the next request
PROMPT, OUTPUT, REQUEST = 1, 2, 7  # the price: micros a token, and a request
ROOM: Final = 8_000  # micros: half of what the writers' requests may come to, about
MEAN: Final = 300
DOOR: Final = 256  # output tokens of a request that doesn't say how many
LONGEST_S: Final = 2.0
MORE_S: Final = (0.3, 3.0)  # from one addition to the next
PRICES: Final = f"""
[[prices]]
model = "*"
currency = "EUR"
prompt = "{PROMPT}"
output = "{OUTPUT}"
request = "0.{REQUEST:06}"
"""
TENANT: Final = "spender"
BUDGET: Final = """
    INSERT INTO budgets (tenant_id, model, period, unit, amount, warn, over)
    VALUES ($1, '', 'total', 'micros', $2, '{80}', 402)
"""
ADD: Final = """
    UPDATE budgets b SET amount = p.spent + $1::bigint FROM budget_periods p
    WHERE p.budget_id = b.id AND b.amount < p.spent + $1::bigint
"""
TABLE: Final = {
    "seconds": 9, "nodes": 7, "kills": 7, "starts": 8, "asked": 7, "whole": 7, "left": 6, "late": 6,
    "broken": 8, "gone": 6, "over": 7, "moments": 9, "full": 7, "overrun": 9, "false": 7,
    "spent": 9, "leases": 8, "reserved": 10, "adrift": 8, "rest s": 8,
}  # fmt: skip


def needs(order: Order) -> int:
    """The least that must be left for it, as the docs say: a token a byte of its prompt and what a
    template adds, and its answer; one token of it where the client doesn't say how many."""
    prompt = len(order.prompt.encode()) + 64
    if order.endpoint == CHAT:
        prompt += len("user") + 32
    return prompt * PROMPT + (1 if order.open else order.tokens) * OUTPUT + REQUEST


def orders(dice: random.Random, name: str) -> Iterator[Order]:
    """Without end, of at most `LONGEST_S`; a fifth of those who stay let the budget say how long
    their answer is."""
    for part in itertools.count():
        for order in drawn(dice, 50, f"{name}-{part}", (CHAT, TEXT)):
            open = order.kind not in (Kind.LEAVES, Kind.SHORT) and dice.random() < 0.2
            asked = replace(order, scarce=True, open=open, tokens=DOOR if open else order.tokens)
            if asked.takes_s <= LONGEST_S:
                yield asked


class Writer:
    """Asks for one answer after the other, each at another door."""

    def __init__(self, number: int, seed: int, clients: Sequence[httpx2.AsyncClient]) -> None:
        self._dice = random.Random(f"writer {number} {seed}")
        self._orders = orders(self._dice, f"w{number}")
        self._clients = clients
        self.bought: list[Purchase] = []

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            bought = await buy(self._dice.choice(self._clients), next(self._orders))
            self.bought.append(bought)
            if bought.ended is Ended.OVER:
                await asyncio.sleep(self._dice.uniform(*AGAIN_S))


async def adding(books: Books, dice: random.Random) -> None:
    """The operator: now and then `ROOM` is left again."""
    while True:
        await books.fetch(ADD, ROOM)
        await asyncio.sleep(dice.uniform(*MORE_S))


@asynccontextmanager
async def at_doors(here: Cluster, key: str) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """A client for each node, wherever its door is now: a node that starts again has another."""
    async with AsyncExitStack() as stack:
        clients = []
        for node, member in here.members.items():
            client = await stack.enter_async_context(here.client(node, key))
            client.event_hooks = {"request": [partial(_aimed, member)]}
            clients.append(client)
        yield clients


async def _aimed(member: Member, request: httpx2.Request) -> None:
    if url := member.state.get("url"):
        request.url = httpx2.URL(url).join(request.url.raw_path.decode())


def refusals(bought: Sequence[Purchase], epoch: float) -> list[Refusal]:
    """By `epoch`, Unix time at 0 of the monotonic clock."""
    return [
        Refusal(each.token, needs(each.order), each.refusal, each.tried + epoch, each.over + epoch)
        for each in bought
        if each.refusal
    ]


async def crowd(
    here: Cluster, seconds: float, seed: int, *, writers: int = WRITERS, every_s: float = EVERY_S
) -> tuple[dict[str, Any], list[str]]:
    """What was seen, and what of it is wrong."""
    books, dice = here.books, random.Random(seed)
    key = await here.key_of(TENANT)
    await books.fetch(LIMIT, TENANT, 10_000_000, 1_000_000_000, 4096)
    await books.fetch(BUDGET, TENANT, ROOM)
    for statement in RECORD:
        await books.fetch(statement)
    epoch = time.time() - time.monotonic()
    async with at_doors(here, key) as clients:
        crowd = [Writer(n, seed, clients) for n in range(writers)]
        operator = asyncio.create_task(adding(books, dice))
        killer = Killer(here.members, books, dice, every_s)
        until = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as asking:
                for writer in crowd:
                    asking.create_task(writer.run(until))
                try:
                    await asyncio.sleep(seconds)
                finally:
                    await killer.stop()
        finally:
            operator.cancel()
            await asyncio.wait([operator])
    if not operator.cancelled():
        operator.result()  # it has failed
    bought = [each for writer in crowd for each in writer.bought]
    sold, faults = await audited(books, bought, killer.times)
    history, refused = await recorded(books), refusals(flat(bought), epoch)
    over, false = overruns(history), wrong_refusals(history, refused)
    rest = await books.rest()
    seen = {
        "seconds": seconds, "nodes": len(here.members), "kills": len(killer.times),
        "starts": killer.starts, **sold, "moments": len(history), "full": full(history),
        "overrun": max((stand.over for stand in history), default=0), "false": len(false),
        "spent": history[-1].spent if history else 0, "adrift": rest.adrift,
        "killed": dict(killer.killed),
    }  # fmt: skip
    if not refused:
        faults.append("the budget was never full: nothing is shown")
    return seen, over + false + faults


def full(history: Sequence[Stand]) -> str:
    """The share of the moments in which not even a mean request would have fitted."""
    return f"{sum(stand.left < MEAN for stand in history) / max(1, len(history)):.0%}"


async def prove(
    folder: Path, seconds: float, report: Report, *, nodes: Sequence[str] = NODES, seed: int = 1,
    **more: Any,
) -> list[str]:  # fmt: skip
    """What is not right."""
    async with doors(folder, nodes, more=PRICES) as here:
        seen, faults = await crowd(here, seconds, seed, **more)
        report.row(seen, faults)
        report.say(f"  killed {seen['killed']}")
        for member in here.members.values():
            report.ended(member.id, await asyncio.to_thread(member.stop))
    return report.found


def main() -> int:
    said = argparse.ArgumentParser(prog="scripts/prove budgets")
    said.add_argument("seconds", nargs="?", type=float, default=60.0)
    said.add_argument("--nodes", type=int, choices=(1, 2, 3), default=len(NODES))
    said.add_argument("--seed", type=int, default=1)
    said.add_argument("--json", action="store_true")
    args = said.parse_args()
    report = Report("budgets", TABLE, as_json=args.json)
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        proof = prove(Path(folder), args.seconds, report, nodes=NODES[: args.nodes], seed=args.seed)
        return run(proof)


if __name__ == "__main__":
    sys.exit(main())
