"""What budgets cost: 256 requests at once of a tenant with three budgets, beside as many of one
without, on one ledger, in turns. What counts is the median of the ratios of neighbours, of
reserving and of settling, for a machine is never idle for long.

Run: `scripts/bench budgets [--json]`, about half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import asyncpg
import uvloop

from actors.contracts import JobKey, Maximum, Outcome, Reserve, Settle, Usage
from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.core.ids import job_id
from actors.core.price import Price, PriceBook
from actors.stores import budgets
from actors.stores.database import connect
from actors.stores.embedded import Embedded
from actors.stores.ledger import Ledger

REQUESTS: Final = 256
TURNS: Final = 60
WARM: Final = 6
AMOUNT: Final = 10**12
TENANTS: Final = ("budgeted", "unbounded")
MOST: Final = Maximum(prompt_tokens=200, output_tokens=256, total_tokens=8192)
USED: Final = Usage(prompt_tokens=20, completion_tokens=64)
PRICE: Final = Price(1, "*", "EUR", 10**6, 10**6, 2 * 10**6, 2 * 10**6, 7)
BUDGETS: Final = (
    (BudgetPeriod.MONTH, BudgetUnit.MICROS, ""),
    (BudgetPeriod.DAY, BudgetUnit.TOKENS, ""),
    (BudgetPeriod.MONTH, BudgetUnit.TOKENS, "echo"),
)
_ADD: Final = """
    INSERT INTO prices (model, currency, prompt, cached, reasoning, output, request)
    VALUES ('*', 'EUR', $1, $2, $3, $4, $5)
"""


async def furnished(connection: asyncpg.Connection) -> None:
    """Both tenants, one price, and the budgets of one of them."""
    await connection.execute("INSERT INTO tenants (id) SELECT unnest($1::text[])", list(TENANTS))
    await connection.execute(
        _ADD, PRICE.prompt, PRICE.cached, PRICE.reasoning, PRICE.output, PRICE.request
    )
    for period, unit, model in BUDGETS:
        await budgets.set_(
            connection,
            TenantBudget(
                tenant_id=TENANTS[0], period=period, unit=unit, amount=AMOUNT, model=model
            ),
        )


def reserve(tenant: str) -> Reserve:
    job = job_id()
    key = JobKey(
        job_id=job, tenant_id=tenant, retry_token=job, fingerprint=b"0123456789abcdef",
        model_ref="echo@1",
    )  # fmt: skip
    return Reserve(job=key, worker_id="w1", worker_address="n1/w1/1", deadline_s=120.0, most=MOST)


async def crowd(ledger: Ledger, tenant: str) -> tuple[float, float]:
    """Seconds until all of them are reserved, and settled."""
    asked = [reserve(tenant) for _ in range(REQUESTS)]
    began = time.perf_counter()
    given = await asyncio.gather(*map(ledger.reserve, asked))
    reserved = time.perf_counter()
    settles = [
        Settle(
            job_id=one.assignment.job_id, fencing_token=1, outcome=Outcome.COMPLETED, usage=USED,
            finish="stop",
        )
        for one in given
    ]  # fmt: skip
    told = await asyncio.gather(*map(ledger.settle, settles))
    if not all(one.first for one in told):
        raise RuntimeError("a job was settled before")
    return reserved - began, time.perf_counter() - reserved


async def measure(dsn: str) -> dict[str, Any]:
    """All figures."""
    times: dict[str, list[tuple[float, float]]] = {tenant: [] for tenant in TENANTS}
    async with Ledger(dsn, prices=PriceBook([PRICE])) as ledger:
        connection = await connect(dsn)
        await furnished(connection)
        for turn in range(WARM + TURNS):
            for tenant in TENANTS[:: 1 if turn % 2 else -1]:
                took = await crowd(ledger, tenant)
                if turn >= WARM:
                    times[tenant].append(took)
        rows = await connection.fetch("SELECT spent, reserved, unit FROM budget_periods p "
                                      "JOIN budgets b ON b.id = p.budget_id")  # fmt: skip
        await connection.close()
    bills = {"tokens": 84, "micros": 20 + 2 * 64 + 7}
    for row in rows:
        if (row["spent"], row["reserved"]) != (bills[row["unit"]] * REQUESTS * (WARM + TURNS), 0):
            raise RuntimeError(f"a budget stands at {dict(row)}")
    found: dict[str, Any] = {"bench": "budgets", "requests": REQUESTS, "budgets": len(rows)}
    for n, what in enumerate(("reserve", "settle")):
        for tenant in TENANTS:
            took = statistics.median(pair[n] for pair in times[tenant])
            found[f"{what}_{tenant}_ms"] = round(took * 1000, 1)
        ratios = [one[n] / other[n] for one, other in zip(*times.values(), strict=True)]
        found[f"{what}_ratio"] = round(statistics.median(ratios), 2)
        found[f"{what}_ratio_quartiles"] = [round(q, 2) for q in statistics.quantiles(ratios)[::2]]
    return found


def main(arguments: list[str]) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench budgets")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tb-"))
    server = Embedded(folder / "pg", folder / "s")
    try:
        row = uvloop.run(measure(asyncio.run(server.start())))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(row))
        return 0
    print(
        f"{REQUESTS} requests at once, of a tenant with {row['budgets']} budgets and of one without"
    )
    for what in ("reserve", "settle"):
        low, high = row[f"{what}_ratio_quartiles"]
        print(
            f"{what:9} {row[f'{what}_budgeted_ms']} ms, without {row[f'{what}_unbounded_ms']} ms, "
            f"ratio {row[f'{what}_ratio']} ({low} to {high})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
