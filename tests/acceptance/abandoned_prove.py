"""`scripts/prove abandoned [ANSWERS]`: a node dies whole, with its door, while answers run on it.

Two nodes of one cluster, certificates between them, a PostgreSQL of neither. The first takes
requests and runs models, the second has control alone. ANSWERS (50) streams with deadlines of 2, 5
and 20 minutes run at the first, half of them for 6 s already, when all of its processes are killed
at once: nobody is left who
holds a run, its session or its client. Within 20 s of that there must be no lease, no running job
and no reserved budget, whatever the deadlines; and what is billed is at most what was computed.
Exits 1 if it isn't so.

    scripts/prove abandoned [ANSWERS] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.support.bills import Bill, wrong
from tests.support.budgeted import fund
from tests.support.buyer import Purchase, buy
from tests.support.node_process import until
from tests.support.orders import Kind, Order
from tests.support.proving import Report, run
from tests.support.small_cluster import Cluster, cluster

ROLES: Final = {"n1": ("door", "control", "worker"), "n2": ("control",)}
WITHIN_S: Final = 20.0
PATIENCE_S: Final = 60.0  # for those that are late all the same: so one sees what is left
DEADLINES_S: Final = (120.0, 300.0, 1200.0)
DELAY_MS: Final = 50
AGE_S: Final = 6.0  # of the first half when they are left: their leases were renewed
RUNNING: Final = """
    SELECT count(*) FROM jobs
    WHERE state = 'running' AND created_at <= now() - make_interval(secs => $1)
"""
TABLE: Final = {
    "answers": 9, "received": 10, "billed": 8, "leases": 8, "running": 9, "reserved": 10,
    "at rest s": 11, "held before": 13,
}  # fmt: skip


def orders(count: int) -> list[Order]:
    """Streams of more than a minute."""
    return [
        Order(
            f"abandoned-{n}", Kind.UNKEYED, f"delay={DELAY_MS} abandoned {n}", stream=True,
            tokens=2000, delay_ms=DELAY_MS, deadline_s=DEADLINES_S[n % len(DEADLINES_S)],
        )
        for n in range(count)
    ]  # fmt: skip


async def abandoned(
    here: Cluster, key: str, count: int, age_s: float
) -> tuple[dict[str, Any], list[str]]:
    """What was seen, and what of it is wrong."""
    books, wanted = here.books, orders(count)
    async with here.client("n1", key, timeout_s=1200.0) as client:
        buying: list[asyncio.Task[Purchase]] = []

        async def run_for(seconds: float) -> bool:
            (row,) = await books.fetch(RUNNING, seconds)
            return bool(row[0] == len(buying))

        try:
            for half, seconds in ((wanted[::2], age_s), (wanted[1::2], 0.0)):
                buying += [asyncio.create_task(buy(client, order)) for order in half]
                await until(partial(run_for, seconds), f"{len(buying)} run for {seconds} s")
            held = (await books.rest()).reserved
            await asyncio.to_thread(here.members["n1"].kill)
            killed = time.monotonic()
            bought = await asyncio.gather(*buying)
        finally:
            for task in buying:
                task.cancel()
            await asyncio.gather(*buying, return_exceptions=True)
    rest, _ = await books.at_rest(WITHIN_S - (time.monotonic() - killed))
    faults = [] if rest.quiet else [f"{WITHIN_S:.0f} s after the kill there is left: {rest}"]
    at_rest_s = time.monotonic() - killed
    if not rest.quiet:
        later, _ = await books.at_rest(PATIENCE_S)
        at_rest_s = time.monotonic() - killed
        faults.append(f"{at_rest_s:.0f} s after it: {later}")
    bills = await books.of(each.token for each in bought if each.token)
    faults += [f for each in bought for f in wrong(each, bills.get(each.token), [killed])]
    seen = {
        "answers": count, "received": received(bought), "billed": billed(bills),
        "leases": rest.leases, "running": rest.running, "reserved": rest.reserved,
        "at rest s": at_rest_s, "held before": held,
    }  # fmt: skip
    return seen, faults


def received(bought: list[Purchase]) -> int:
    return sum(each.received for each in bought)


def billed(bills: dict[str, Bill]) -> int:
    return sum(bill.output for bill in bills.values())


async def prove(folder: Path, count: int, report: Report, *, age_s: float = AGE_S) -> list[str]:
    """What is not right."""
    async with cluster(folder, ROLES) as here:
        key = await here.key_of("acme")
        if not await fund(here.books, "acme"):
            report.say("this release has no budgets: leases and jobs alone are looked at")
        report.row(*await abandoned(here, key, count, age_s))
        report.ended("n2", await asyncio.to_thread(here.members["n2"].stop))
    return report.found


def main() -> int:
    said = argparse.ArgumentParser(prog="scripts/prove abandoned")
    said.add_argument("answers", nargs="?", type=int, default=50)
    said.add_argument("--json", action="store_true")
    args = said.parse_args()
    report = Report("abandoned", TABLE, as_json=args.json)
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        return run(prove(Path(folder), args.answers, report))


if __name__ == "__main__":
    sys.exit(main())
