"""The ledger sealed, audited, proved by a receipt, and summed up, on a real server."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from actors.core.receipt import spelled
from actors.core.sealing import LedgerEntry
from actors.stores import books
from actors.stores.database import connect
from actors.stores.ledger_audit import audit
from actors.stores.queries import sql
from actors.stores.sealer import LOCK, Sealer
from supervision.errors import BadRequest
from tests.support.ledger_rows import charged, tamper

SCRIPT = Path(__file__).parents[2] / "examples" / "verify_receipt.py"
FLIPPED: dict[str, str] = {
    "seq": "seq = seq + 1000",
    "at": "at = at + interval '1 microsecond'",
    "job_id": "job_id = gen_random_uuid()",
    "key_id": "key_id = gen_random_uuid()",
    "price": "price = coalesce(price, 0) + 1",
} | {name: f"{name} = {name} # 1" for name in (
    "number", "attempt", "prompt_tokens", "cached_tokens", "reasoning_tokens", "output_tokens",
    "micros",
)}  # fmt: skip


async def block_count(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM ledger_blocks"))


async def test_what_is_written_is_sealed_once(dsn: str, connection: asyncpg.Connection) -> None:
    sealer = Sealer(dsn, block_max=10)
    assert await sealer.seal() == 0, "there is nothing"
    for _ in range(23):
        await charged(connection)
    assert await sealer.seal() == 3
    assert await sealer.seal() == 0
    await charged(connection)
    found = await audit(dsn)
    assert (found.sound, found.blocks, found.entries, found.unsealed) == (True, 3, 23, 1)
    assert await sealer.seal() == 1
    found = await audit(dsn)
    assert (found.sound, found.blocks, found.entries, found.unsealed) == (True, 4, 24, 0)
    head = await books.head(connection)
    assert head == found.head
    assert head is not None
    assert (await audit(dsn, [head.hash])).sound
    (fault,) = (await audit(dsn, ["12" * 32])).faults
    assert "no block has the published hash" in fault


async def test_numbers_drawn_for_nothing_cost_no_blocks(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await charged(connection)
    await connection.execute("SELECT setval('ledger_seq', 40_000_000)")
    await charged(connection)
    assert await Sealer(dsn, block_max=10).seal() == 2
    assert (await audit(dsn)).sound


async def test_one_seals_at_a_time(dsn: str, connection: asyncpg.Connection) -> None:
    await charged(connection)
    other = await connect(dsn)
    assert await other.fetchval("SELECT pg_try_advisory_lock($1)", LOCK)
    assert await Sealer(dsn).seal() == 0
    await other.close()
    assert await Sealer(dsn).seal() == 1


async def test_an_entry_that_is_not_committed_holds_up_those_above_it(
    dsn: str, connection: asyncpg.Connection
) -> None:
    other = await connect(dsn)
    sealer = Sealer(dsn)
    try:
        transaction = other.transaction()
        await transaction.start()
        await charged(other)
        await charged(connection)
        sealing = asyncio.create_task(sealer.seal())
        done, _ = await asyncio.wait([sealing], timeout=0.6)
        assert not done, "a lower entry may still come"
        await transaction.commit()
        assert await asyncio.wait_for(sealing, 30) == 1
    finally:
        await other.close()
    found = await audit(dsn)
    assert (found.sound, found.entries) == (True, 2)


async def test_no_entry_comes_into_a_block_that_was_sealed(dsn: str) -> None:
    """Writers that commit in another order than they draw numbers, beside a sealer in a hurry."""
    draw = random.Random(5)
    over = asyncio.Event()

    async def writer() -> int:
        connection, written = await connect(dsn), 0
        try:
            while not over.is_set():
                async with connection.transaction():
                    await charged(connection)
                    await asyncio.sleep(draw.random() * 0.01)  # others draw, and commit before it
                written += 1
        finally:
            await connection.close()
        return written

    writers = [asyncio.create_task(writer()) for _ in range(8)]
    async with asyncio.timeout(120):
        blocks = 0
        while blocks < 40:
            blocks += await Sealer(dsn, block_max=50).seal()
    over.set()
    written = sum(await asyncio.gather(*writers))
    await Sealer(dsn).seal()
    found = await audit(dsn)
    assert (found.faults, found.entries, found.unsealed) == ([], written, 0)


async def test_a_block_is_of_one_month_and_a_dropped_one_is_no_fault(
    dsn: str, connection: asyncpg.Connection
) -> None:
    now = datetime.now(UTC)
    last = now.replace(day=1) - timedelta(days=3)
    await connection.execute("SELECT ledger_make_partition($1)", last)
    for n in range(6):
        await charged(connection, at=last if n % 2 else None)
    assert await Sealer(dsn).seal() == 2
    assert (await audit(dsn)).sound
    begins = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    await tamper(connection, "DELETE FROM ledger WHERE at < $1", begins)
    assert len((await audit(dsn)).faults) == 3
    found = await audit(dsn, gone_before=begins)
    assert (found.sound, found.gone, found.entries) == (True, 3, 3)
    assert len((await audit(dsn, gone_before=begins - timedelta(days=1))).faults) == 3
    assert await connection.fetchval("SELECT count(*) FROM ledger_leaves") == 2
    assert await connection.fetchval("SELECT cardinality(ledger_drop_before($1))", begins) == 1
    await Sealer(dsn).seal()
    assert await connection.fetchval("SELECT array_agg(block) FROM ledger_leaves") == [2]
    assert (await audit(dsn, gone_before=begins)).sound


@pytest.mark.parametrize("column", LedgerEntry.__struct_fields__)
async def test_one_changed_bit_is_found(
    column: str, dsn: str, connection: asyncpg.Connection
) -> None:
    for _ in range(20):
        await charged(connection)
    await Sealer(dsn, block_max=8).seal()
    change = FLIPPED.get(column, f"{column} = {column} || 'x'")
    if column == "kind":
        await connection.execute("ALTER TABLE ledger DROP CONSTRAINT ledger_kind_check")
    await tamper(connection, f"UPDATE ledger SET {change} WHERE seq = 11")
    faults = (await audit(dsn)).faults
    assert any(
        "entry 11 " in fault and ("changed" in fault or "missing" in fault) for fault in faults
    )


async def test_a_missing_an_added_and_a_changed_block(
    dsn: str, connection: asyncpg.Connection
) -> None:
    for _ in range(20):
        await charged(connection)
    await Sealer(dsn, block_max=8).seal()
    await tamper(connection, "DELETE FROM ledger WHERE seq = 4")
    assert (await audit(dsn)).faults == ["entry 4 of block 1 is missing"]
    job = await charged(connection)
    await tamper(connection, "UPDATE ledger SET seq = 4 WHERE job_id = $1::text::uuid", job)
    (fault,) = (await audit(dsn)).faults
    assert f"of job {job}) was changed since block 1" in fault
    await tamper(connection, "UPDATE ledger_blocks SET root = sha256('x') WHERE number = 2")
    faults = (await audit(dsn)).faults
    assert any("block 2 was changed" in fault for fault in faults)
    await tamper(connection, "DELETE FROM ledger_blocks WHERE number = 2")
    assert any("number 2, which is missing" in fault for fault in (await audit(dsn)).faults)


async def test_nobody_changes_an_entry(dsn: str, connection: asyncpg.Connection) -> None:
    await charged(connection)
    await Sealer(dsn).seal()
    await connection.execute(
        "INSERT INTO prices (model, currency, prompt, cached, reasoning, output) "
        "VALUES ('*', 'EUR', 1, 1, 1, 1)"
    )
    for statement in (
        "UPDATE ledger SET micros = 0", "DELETE FROM ledger", "TRUNCATE ledger",
        "UPDATE ledger_blocks SET entries = 1", "TRUNCATE ledger_blocks CASCADE",
        "UPDATE prices SET output = 1", "TRUNCATE prices", "DELETE FROM prices",
    ):  # fmt: skip
        with pytest.raises(asyncpg.RestrictViolationError, match="only ever added to"):
            await connection.execute(statement)


async def test_a_receipt_is_verified_by_the_script(
    dsn: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    jobs = [await charged(connection, note=f"n° {n}") for n in range(9)]
    await Sealer(dsn, block_max=4).seal()
    await charged(connection, job=jobs[3], number=2, micros=-5)
    told = await books.receipt(connection, jobs[3])
    assert not told.sealed
    for _ in range(5):
        await charged(connection)
    await Sealer(dsn, block_max=4).seal()
    head = await books.head(connection)
    assert head is not None

    def says(told: Any, head: str) -> int:
        command = [sys.executable, "-I", SCRIPT, head]
        return subprocess.run(
            command, input=json.dumps(told).encode(), capture_output=True, check=False, timeout=60
        ).returncode

    receipt = await books.receipt(connection, jobs[3])
    assert (receipt.sealed, receipt.bill["micros"]) == (True, 25)
    assert says(spelled(receipt), head.hash) == 0
    earlier = await books.receipt(connection, jobs[3], to_block=receipt.entries[1].block or 0)
    assert len(earlier.blocks) < len(receipt.blocks)
    assert says(spelled(earlier), earlier.blocks[-1].hash) == 0
    assert says(spelled(earlier), head.hash) == 1
    with pytest.raises(BadRequest, match="leads to a block from"):
        await books.receipt(connection, jobs[3], to_block=1)
    with pytest.raises(BadRequest, match="nothing was billed"):
        await books.receipt(connection, str(uuid.uuid4()))
    with pytest.raises(BadRequest, match="no job id"):
        await books.receipt(connection, "x")


async def test_a_statement_sums_a_month_by_one_partition_and_the_index(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO tenants (id) VALUES ('acme')")
    key = uuid.uuid4()
    await connection.execute(
        "INSERT INTO api_keys (id, tenant_id, hash, prefix, name) "
        "VALUES ($1, 'acme', sha256('k'), 't', 'ci')",
        key,
    )
    november = [datetime(2026, 11, day, 12, tzinfo=UTC) for day in (1, 1, 30)]
    for month in (10, 11, 12):
        await connection.execute(
            "SELECT ledger_make_partition($1)", datetime(2026, month, 1, tzinfo=UTC)
        )
    job = await charged(connection, at=november[0], key=key)
    await charged(connection, at=november[1], key=key, job=job, number=2, micros=-3, prompt=0)
    await charged(connection, at=november[2], model="echo@1", micros=0)
    await charged(connection, at=datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))
    await charged(connection, at=datetime(2026, 12, 1, tzinfo=UTC))
    await charged(connection, at=november[1], tenant="other")
    first, second = await books.statement(connection, "acme", "2026-11")
    assert (first.model_ref, first.key_name, first.jobs) == ("smollm2@1", "ci", 1)
    assert (first.micros, first.prompt_tokens, first.currency) == (27, 10, "EUR")
    assert (second.model_ref, second.day.day, second.key_id) == ("echo@1", 30, None)
    for wrong in ("2026-13", "2026", "november", "26-11", "2026-1 "):
        with pytest.raises(BadRequest, match="no month"):
            await books.statement(connection, "acme", wrong)

    await connection.execute(
        "INSERT INTO ledger (job_id, number, kind, tenant_id, model_ref, attempt, outcome, "
        "prompt_tokens, output_tokens, at) SELECT gen_random_uuid(), 1, 'charge', 't' || n % 300, "
        "'m', 1, 'completed', 1, 1, '2026-11-01'::timestamptz + n * interval '1 minute' "
        "FROM generate_series(1, 30000) n"
    )
    await connection.execute("ANALYZE ledger")
    plan = "\n".join(
        row[0]
        for row in await connection.fetch(
            "EXPLAIN (ANALYZE, COSTS OFF) " + sql("statement"), "t7", *books.month_of("2026-11")
        )
    )
    assert "ledger_2026_11_tenant_id_at_idx" in plan
    assert "Seq Scan on ledger" not in plan
    assert plan.count("ledger_20") == plan.count("ledger_2026_11"), plan
