"""What the books cost at a size: 2,000,000 entries over 12 months of 1,000 tenants.

`statement` is a month of one tenant, as `tether ledger statement` asks for it, for tenants and
months drawn at random. `settle` is a round of settles on that ledger beside the same on an empty
one, of two databases of one server, in turns: what counts is the median of the ratios of
neighbours. `seal` and `audit` say how long the rest takes.

Run: `scripts/bench books [--entries N] [--json]`, about three minutes; 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from actors.contracts import JobKey, Outcome, Reserve, Settle, Usage
from actors.core.ids import job_id
from actors.stores import books
from actors.stores.database import connect
from actors.stores.embedded import Embedded
from actors.stores.ledger import Ledger
from actors.stores.ledger_audit import audit
from actors.stores.sealer import Sealer

TENANTS = 1000
MONTHS = 12
STATEMENTS = 200
TURNS = 60
ROUND = 64  # settles in one
STATEMENT_TARGET_MS = 20.0
SETTLE_TARGET = 1.25

FILL = """
    INSERT INTO ledger (job_id, number, kind, tenant_id, endpoint, model_ref, attempt, outcome,
        prompt_tokens, output_tokens, micros, price, currency, at)
    SELECT gen_random_uuid(), 1, 'charge', 't' || floor(random() * $1)::integer, 'chat',
        'm' || n % 5 || '@1', 1, 'completed', n % 900, n % 300, n % 5000, NULL, 'EUR',
        $2::timestamptz + ($3::timestamptz - $2::timestamptz) * (n::float8 / $4)
    FROM generate_series(0, $4::integer - 1) n
"""


def months() -> list[datetime]:
    """The last twelve beginnings of months, the oldest first, and that of the next month."""
    begins = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    found = [books.next_month(begins), begins]
    for _ in range(MONTHS - 1):
        year, month = divmod(found[-1].year * 12 + found[-1].month - 2, 12)
        found.append(found[-1].replace(year=year, month=month + 1))
    return found[::-1]


async def filled(dsn: str, entries: int) -> float:
    """Write that many entries; seconds."""
    began = time.perf_counter()
    connection = await connect(dsn)
    spans = months()
    for begins, ends in pairwise(spans):
        await connection.execute("SELECT ledger_make_partition($1)", begins, timeout=60)
        until = min(ends, datetime.now(UTC))
        await connection.execute(FILL, TENANTS, begins, until, entries // MONTHS, timeout=600)
    await connection.execute("VACUUM (ANALYZE) ledger", timeout=600)
    await connection.execute("CHECKPOINT", timeout=600)
    await connection.close()
    return time.perf_counter() - began


async def statements(dsn: str) -> list[float]:
    """How long each took, in ms; the first of a connection, which is planned, left out."""
    draw, took = random.Random(3), []
    connection = await connect(dsn)
    spans = months()[:-1]
    for number in range(STATEMENTS + 1):
        month, tenant = draw.choice(spans), f"t{draw.randrange(TENANTS)}"
        began = time.perf_counter()
        await books.statement(connection, tenant, f"{month:%Y-%m}")
        if number:
            took.append((time.perf_counter() - began) * 1000)
    await connection.close()
    return took


def reserve() -> Reserve:
    job = job_id()
    key = JobKey(
        job_id=job, tenant_id="acme", retry_token=job, fingerprint=b"0123456789abcdef",
        model_ref="echo@1",
    )  # fmt: skip
    return Reserve(job=key, worker_id="w1", worker_address="n1/w1/1", deadline_s=120.0)


async def settled(ledger: Ledger) -> float:
    """Seconds that a round of settles takes, of jobs just reserved."""
    asked = [reserve() for _ in range(ROUND)]
    given = await asyncio.gather(*map(ledger.reserve, asked))
    usage = Usage(prompt_tokens=20, completion_tokens=64)
    began = time.perf_counter()
    await asyncio.gather(
        *(
            ledger.settle(
                Settle(
                    job_id=one.assignment.job_id,
                    fencing_token=one.assignment.fencing_token,
                    outcome=Outcome.COMPLETED,
                    usage=usage,
                    finish="stop",
                )
            )
            for one in given
        )
    )
    return time.perf_counter() - began


async def turns(full: str, empty: str) -> list[tuple[float, float]]:
    """Rounds on the full ledger and on the empty one, in turns, each first as often."""
    pairs = []
    async with Ledger(full) as one, Ledger(empty) as other:
        for _ in range(10):
            await settled(one)
            await settled(other)
        for number in range(TURNS):
            if number % 2:
                there, here = await settled(other), await settled(one)
            else:
                here, there = await settled(one), await settled(other)
            pairs.append((here, there))
    return pairs


async def timed(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = await work()
    return time.perf_counter() - began, done


async def measure(root: str, entries: int) -> dict[str, Any]:
    """All figures."""
    for name in ("filled", "unfilled"):
        connection: asyncpg.Connection = await connect(root)
        await connection.execute(f"CREATE DATABASE {name}", timeout=60)
        await connection.close()
    full, empty = (root.replace("@/tether?", f"@/{name}?") for name in ("filled", "unfilled"))
    for dsn in (full, empty):
        async with Ledger(dsn):
            pass  # migrated
    fill_s = await filled(full, entries)
    took = await statements(full)
    pairs = await turns(full, empty)
    ratios = [here / there for here, there in pairs]
    seal_s, blocks = await timed(Sealer(full).seal)
    audit_s, found = await timed(lambda: audit(full))
    if not found.sound or found.unsealed:
        raise RuntimeError(f"the audit says {found.faults[:3]}")
    return {
        "bench": "books",
        "entries": found.entries,
        "fill_s": round(fill_s, 1),
        "statement_ms": round(statistics.median(took), 2),
        "statement_p99_ms": round(sorted(took)[int(len(took) * 0.99) - 1], 2),
        "settle_full_ms": round(statistics.median(h for h, _ in pairs) * 1000, 2),
        "settle_empty_ms": round(statistics.median(t for _, t in pairs) * 1000, 2),
        "settle_ratio": round(statistics.median(ratios), 3),
        "blocks": blocks,
        "seal_us": round(seal_s / found.entries * 1e6, 1),
        "audit_us": round(audit_s / found.entries * 1e6, 1),
    }


def main(arguments: list[str]) -> int:
    """Prints the figures; 0 if the targets are met."""
    parser = argparse.ArgumentParser(prog="scripts/bench books")
    parser.add_argument("--entries", type=int, default=2_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tb-"))
    server = Embedded(folder / "pg", folder / "s")
    try:
        dsn = asyncio.run(server.start())
        row = uvloop.run(measure(dsn, options.entries))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(row))
    else:
        print(
            f"{row['entries']:,} entries, {MONTHS} months, {TENANTS:,} tenants\n"
            f"a month of one tenant  {row['statement_ms']} ms (median), "
            f"{row['statement_p99_ms']} ms (99 %), target {STATEMENT_TARGET_MS:g}\n"
            f"a round of {ROUND} settles  {row['settle_full_ms']} ms, empty "
            f"{row['settle_empty_ms']} ms, ratio {row['settle_ratio']}, target {SETTLE_TARGET}\n"
            f"sealing {row['seal_us']} µs an entry, {row['blocks']:,} blocks; "
            f"audit {row['audit_us']} µs an entry"
        )
    met = row["statement_p99_ms"] <= STATEMENT_TARGET_MS and row["settle_ratio"] <= SETTLE_TARGET
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
