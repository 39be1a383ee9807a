"""`scripts/prove outages [MINUTES]`: a store goes away, the node dies meanwhile, and every answer
that was delivered is billed once.

A node whose PostgreSQL and Valkey are not its own children. Under load, and with answers under way
that end while it is away, the one and then the other is stopped for MINUTES (10; a fraction is
one); in the middle of that the node is killed whole, all of its processes at once, and started
again as systemd does, for as often as it takes. Then the server comes back, Valkey with nothing in
it. Every answer that a client received whole must be in the ledger once, at its usage; what broke
off costs at most what was computed; no lease and no reserved budget is left; and nobody was refused
because Valkey was away. Exits 1 if it isn't so.

    scripts/prove outages [MINUTES] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2

from tests.acceptance.money_prove import COLUMNS, MODELS, audited
from tests.support.bills import Books
from tests.support.budgeted import fund
from tests.support.buyer import Ended, Purchase, buy
from tests.support.node_kills import Keeper, kill_whole
from tests.support.node_process import Launcher, Node, until, write_config
from tests.support.orders import CHAT, TEXT, Kind, Order, drawn
from tests.support.outside_stores import Outside, outside_postgres, outside_valkey
from tests.support.proving import Report, run

CLIENTS: Final = 8
LONG: Final = 40  # answers under way when the store goes
STEPS: Final = 20  # tokens of each, evenly over its time
BEFORE_S, AFTER_S = 1.0, 3.0
TABLE: Final = {"away": 10, "away s": 8, "delivered then": 16} | {
    name: width for name, width in COLUMNS.items() if name not in ("seed", "kills")
}
MORE: Final = """
max_deadline_s = 3600.0
[limits]
requests_per_minute = 1000000
tokens_per_minute = 100000000
[stores]
postgres = {postgres}
{redis}
"""


def long_orders(name: str, away_s: float) -> list[Order]:
    """Streams and whole answers that end between the second in which the store goes and the one in
    which it comes back; who is cut off asks again, under its key."""
    found = []
    for number in range(LONG):
        takes_s = 1.0 + away_s * (number + 1) / LONG
        delay_ms = math.ceil(takes_s * 1000 / STEPS)
        key = f"{name}-long-{number}"
        prompt = f"delay={delay_ms} {key} says this"
        found.append(
            Order(
                key, Kind.PLAIN, prompt, stream=number % 4 > 0, tokens=STEPS, delay_ms=delay_ms,
                deadline_s=4 * away_s + 120.0,
            )
        )  # fmt: skip
    return found


class Load:
    """Clients with one short request after the other, and those that were begun at once."""

    def __init__(self, client: httpx2.AsyncClient, name: str, patience_s: float) -> None:
        self._client, self._name, self._patience_s = client, name, patience_s
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.bought: list[Purchase] = []

    def begin(self, *orders: Order) -> None:
        for order in orders:
            self._tasks.append(asyncio.create_task(self._one(order)))

    def keep_on(self) -> None:
        for number in range(CLIENTS):
            self._tasks.append(asyncio.create_task(self._client_of(number)))

    async def end(self) -> list[Purchase]:
        """No new requests; those there are get their answers."""
        self._over = True
        await asyncio.gather(*self._tasks)
        return self.bought

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, order: Order) -> None:
        self.bought.append(await buy(self._client, order, self._patience_s))

    async def _client_of(self, number: int) -> None:
        dice, asked = random.Random(number), 0
        while not self._over:
            asked += 1
            (order,) = drawn(dice, 1, f"{self._name}-{number}-{asked}", (CHAT, TEXT))
            await self._one(order)


@asynccontextmanager
async def load_of(node: Node, name: str, patience_s: float) -> AsyncIterator[Load]:
    limits = httpx2.Limits(max_connections=256)
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=patience_s, limits=limits
    ) as client:
        load = Load(client, name, patience_s)
        try:
            yield load
        finally:
            await load.cancel()


async def outage(
    keeper: Keeper, store: Outside, books: Books, away_s: float, report: Report
) -> None:
    """One store, away once, with the node's death in the middle of it."""
    patience_s = 4 * away_s + 300.0
    starts, long = keeper.starts, long_orders(store.name, away_s)
    keys = [order.key for order in long]
    async with load_of(keeper.node, store.name, patience_s) as load:
        load.keep_on()
        load.begin(*long)

        async def all_run() -> bool:
            (row,) = await books.fetch(
                "SELECT count(*) FROM jobs WHERE retry_token = ANY($1::text[])", keys
            )
            return bool(row[0] == LONG)

        await until(all_run, "all long answers are under way")
        await store.stop()
        gone = time.monotonic()
        report.say(f"{store.name} is away")
        await asyncio.sleep(away_s / 2)
        killing = time.monotonic()  # what is broken off from here on is broken by that
        await asyncio.to_thread(kill_whole, keeper.node)
        killed = time.monotonic()
        report.say(f"  the node was killed whole, {killed - gone:.1f} s later")
        await asyncio.sleep(max(0.0, gone + away_s - time.monotonic()))
        await store.start()
        back = time.monotonic()
        report.say(f"  {store.name} is back after {back - gone:.1f} s")
        await keeper.ready()
        report.say(f"  the node is ready again, {time.monotonic() - back:.1f} s later")
        await asyncio.sleep(AFTER_S)
        bought = await load.end()
    seen, faults = await audited(books, bought, [killed])
    then = [b for b in bought if b.ended is Ended.WHOLE and gone < b.over < back]
    if store.name == "valkey":
        early = [b for b in bought if b.told and b.over < killing and b.ended is not Ended.LATE]
        faults += [f"refused: {b.order.key}, Valkey being away, was told {b.told}" for b in early]
    if not then:
        faults.append(f"no answer was delivered while {store.name} was away: nothing was shown")
    report.row(
        {
            "away": store.name, "away s": back - gone, "delivered then": len(then),
            "starts": keeper.starts - starts, **seen,
        },
        faults,
    )  # fmt: skip
    told = Counter(word for each in bought for word in each.told)
    report.say(f"  clients were told {dict(told.most_common(8))}")


async def prove(folder: Path, away_s: float, report: Report) -> list[str]:
    """What is not right. A release without Valkey is tried without it."""
    launcher = Launcher()
    async with outside_postgres(folder) as postgres, outside_valkey() as valkey:
        redis = f'[redis]\nurl = "{valkey.url}"' if valkey else ""
        more = MORE.format(postgres=json.dumps(postgres.url), redis=redis)
        write_config(folder, models=MODELS, more=more)
        try:
            node = await asyncio.to_thread(launcher, folder)
            books = Books(postgres.url)
            await fund(books, "acme")
            keeper = Keeper(launcher, node)
            try:
                for store in (valkey, postgres):
                    if store is not None:
                        await outage(keeper, store, books, away_s, report)
            finally:
                await keeper.stop()
            report.ended("the node", await asyncio.to_thread(keeper.node.stop))
        finally:
            launcher.close()
    return report.found


def main() -> int:
    said = argparse.ArgumentParser(prog="scripts/prove outages")
    said.add_argument("minutes", nargs="?", type=float, default=10.0)
    said.add_argument("--json", action="store_true")
    args = said.parse_args()
    report = Report("outages", TABLE, as_json=args.json)
    with tempfile.TemporaryDirectory(prefix="tether-outages-") as folder:
        return run(prove(Path(folder), args.minutes * 60, report))


if __name__ == "__main__":
    sys.exit(main())
