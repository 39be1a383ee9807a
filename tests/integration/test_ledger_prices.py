"""Prices and refunds on a real server: arithmetic, versions, word of changes, bounds."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from actors.contracts import Outcome, Settle, Usage
from actors.core.price import Price, PriceBook, charge_micros
from actors.core.price_options import PriceOptions
from actors.reservation.books import Books
from actors.stores import books, prices
from actors.stores.database import Database, connect
from actors.stores.database_roles import DatabaseRole, grant, with_user
from actors.stores.ledger import Ledger, LedgerOptions
from actors.stores.ledger_audit import audit
from actors.stores.sealer import Sealer
from supervision.errors import BadRequest
from tests.support import messages
from tests.support.ledger_rows import charged

CHARGES = """
    SELECT charge_micros(t.p, t.c, t.r, t.o, ROW(1, '*', 'EUR', t.a, t.b, t.d, t.e, t.q, now(),
        now(), '')::prices)
    FROM unnest($1::integer[], $2::integer[], $3::integer[], $4::integer[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
        WITH ORDINALITY AS t (p, c, r, o, a, b, d, e, q, n) ORDER BY n
"""


def priced(model: str = "*", **changed: Any) -> PriceOptions:
    terms = {"currency": "EUR", "prompt": Decimal("0.5"), "output": Decimal(2)}
    return PriceOptions(model=model, **(terms | changed))


async def test_the_server_charges_what_we_compute(connection: asyncpg.Connection) -> None:
    draw = random.Random(11)
    counts = (0, 1, 7, 999, 1_000_000, 2**31 - 1)
    amounts = (0, 1, 3, 999_999, 10**9)
    rows = [
        [draw.choice((draw.choice(counts), draw.randrange(5000))) for _ in range(4)]
        + [draw.choice((draw.choice(amounts), draw.randrange(10**7))) for _ in range(5)]
        for _ in range(3000)
    ]
    rows.append([2**31 - 1] * 4 + [10**9] * 5)
    charged_there = await connection.fetch(CHARGES, *map(list, zip(*rows, strict=True)))
    for row, there in zip(rows, charged_there, strict=True):
        prompt, cached, reasoning, output, a, b, d, e, request = row
        price = Price(1, "*", "EUR", prompt=a, cached=b, reasoning=d, output=e, request=request)
        usage = Usage(
            prompt_tokens=prompt,
            cached_tokens=cached,
            reasoning_tokens=reasoning,
            completion_tokens=output,
        )
        assert there[0] == charge_micros(usage, price), row
    assert await connection.fetchval("SELECT charge_micros(5, 0, 0, 5, NULL::prices)") == 0


async def test_prices_of_a_configuration_are_written_once(dsn: str) -> None:
    async with Database(dsn) as database:

        async def configured(*listed: PriceOptions) -> int:
            return await database.transact(lambda c: prices.configure(c, listed))

        later = datetime.now(UTC) + timedelta(days=40)
        assert await configured(priced(), priced("echo"), priced("echo", since=later)) == 3
        assert await configured(priced(), priced("echo"), priced("echo", since=later)) == 0
        assert await configured(priced("echo", output=Decimal(3)), priced("echo", since=later)) == 1
        assert await configured(priced("echo", output=Decimal(3))) == 0
        assert await configured(priced("echo")) == 1, "back again is a change, too"
        said = await database.transact(
            lambda c: prices.add(c, priced("echo", request=Decimal(1)), "ann")
        )
        assert await configured(priced("echo")) == 0, (
            "a start doesn't take back what was said since"
        )
        book = PriceBook(await prices.in_force(database))
        now = datetime.now(UTC).timestamp()
        assert book.version_of("echo@1", now) == said.version
        assert book.version_of("echo@1", later.timestamp()) == 3
        assert book.version_of("other@1", now) == 1
        assert [p.made_by for p in await prices.shown(database, "echo")][:2] == [
            "ann",
            prices.CONFIGURATION,
        ]
        assert sum([await configured(priced()) for _ in range(3)]) == 0
        both = await asyncio.gather(*(configured(priced("new")) for _ in range(5)))
        assert sum(both) == 1


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (priced("m", currency="USD"), "prices of this cluster are in EUR"),
        (priced("m", currency="EURO"), "no currency"),
        (priced("m", output=Decimal(-1)), "below 0"),
        (priced("m", since=datetime(2020, 1, 1, tzinfo=UTC)), "is past"),
    ],
)
async def test_a_price_that_is_none(said: PriceOptions, says: str, dsn: str) -> None:
    async with Database(dsn) as database:
        await database.transact(lambda c: prices.add(c, priced(), "ann"))
        with pytest.raises(BadRequest, match=says):
            await database.transact(lambda c: prices.add(c, said, "ann"))
        assert len(await prices.shown(database)) == 1


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 (it is told by PostgreSQL)
            await asyncio.sleep(0.01)


async def test_a_reservation_hears_of_prices_also_after_a_loss(
    dsn: str, connection: asyncpg.Connection
) -> None:
    book = PriceBook()
    shelf = Books(dsn, LedgerOptions(seal_s=3600.0), book)
    try:
        async with Ledger(dsn, LedgerOptions(), book) as ledger:
            await shelf.open([priced()])
            assert book.size == 1
            given = (await ledger.reserve(messages.reserve("a"))).assignment
            async with connection.transaction():
                await prices.add(connection, priced("smollm2", output=Decimal(5)), "ann")
            await until(lambda: book.size == 2)
            used = Usage(prompt_tokens=10, completion_tokens=7)
            await ledger.settle(
                Settle(
                    job_id=given.job_id,
                    fencing_token=given.fencing_token,
                    outcome=Outcome.COMPLETED,
                    usage=used,
                )
            )
        row = await connection.fetchrow("SELECT price, micros, currency FROM ledger")
        assert tuple(row) == (1, charge_micros(used, book.price(1)), "EUR"), "its price stays"
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        async with connection.transaction():
            await prices.add(connection, priced("third"), "ann")
        await until(lambda: book.size == 3)
    finally:
        await shelf.close()


async def refunded(dsn: str, job: str, **amount: int) -> str:
    connection = await connect(dsn)
    try:
        await books.refund(connection, job, "why not", "ann", **amount)
    except BadRequest as error:
        return str(error)
    finally:
        await connection.close()
    return ""


async def test_a_refund_is_an_entry_and_never_above_the_bill(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        price = await prices.add(connection, priced(), "ann")
    job = await charged(connection, prompt=100, output=50, micros=150, price=price.version)
    assert await refunded(dsn, job, tokens=10) == ""
    row = await connection.fetchrow(
        "SELECT number, kind, output_tokens, micros, note, made_by, currency, price FROM ledger "
        "WHERE kind = 'refund'"
    )
    assert tuple(row) == (2, "refund", -10, -20, "why not", "ann", "EUR", price.version)
    assert await connection.fetchval("SELECT entries FROM jobs") == 2
    assert await connection.fetchval("SELECT billed_micros FROM jobs") == 150
    assert "can't be given back" in await refunded(dsn, job, micros=131)
    several = await asyncio.gather(*(refunded(dsn, job, micros=40) for _ in range(3)))
    assert several == ["", "", ""]
    assert await connection.fetchval("SELECT sum(micros) FROM ledger") == 10
    assert await refunded(dsn, job) == ""
    assert "nothing is left" in await refunded(dsn, job)
    sums = await connection.fetchrow(
        "SELECT sum(micros), sum(prompt_tokens), sum(output_tokens) FROM ledger"
    )
    assert tuple(sums) == (0, 0, 0)
    assert "nothing was billed" in await refunded(dsn, "01900000-0000-7000-8000-000000000009")
    with pytest.raises(asyncpg.NumericValueOutOfRangeError, match="no more than 0 micros"):
        await connection.execute(
            "SELECT ledger_refund($1::text::uuid, 6, 0, 0, 0, 0, 1, 'x', 'ann')", job
        )


async def test_a_job_that_was_pruned_is_refunded_and_a_budget_gets_it_back(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO tenants (id) VALUES ('acme')")
    for unit in ("micros", "tokens"):
        await connection.execute(
            "INSERT INTO budgets (tenant_id, period, unit, amount) "
            "VALUES ('acme', 'month', $1, 1000)",
            unit,
        )
    await connection.execute(
        "INSERT INTO budget_periods (budget_id, begins, spent) "
        "SELECT id, '2026-11-01', 100 FROM budgets"
    )
    kept, gone = await charged(connection), await charged(connection)
    await connection.execute(
        "UPDATE jobs SET budgets = (SELECT array_agg(id ORDER BY id) FROM budget_periods) "
        "WHERE id = $1::text::uuid",
        kept,
    )
    await connection.execute("DELETE FROM jobs WHERE id = $1::text::uuid", gone)
    assert await refunded(dsn, kept) == ""
    spent = await connection.fetch("SELECT spent FROM budget_periods ORDER BY id")
    assert [row[0] for row in spent] == [70, 70], "30 micros, and 30 tokens"
    both = await asyncio.gather(*(refunded(dsn, gone) for _ in range(2)))
    assert sorted(both)[0] == ""
    assert "nothing is left" in sorted(both)[1]


async def test_operators_and_reservations_have_the_rights_that_they_need(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await grant(connection)
    job = await charged(connection)
    assert await Sealer(with_user(dsn, DatabaseRole.RESERVATION)).seal() == 1
    operator = with_user(dsn, DatabaseRole.OPERATOR)
    async with Database(operator) as database:
        await books.refund(database, job, "broken", "ann")
        await database.transact(lambda c: prices.add(c, priced(), "ann"))
        assert (await books.receipt(database, job)).bill["micros"] == 0
    assert (await audit(operator)).sound
    shelf = Books(with_user(dsn, DatabaseRole.RESERVATION), LedgerOptions(), PriceBook())
    await shelf.open([priced("echo")])
    await shelf.close()


async def test_a_clock_that_jumps_costs_no_entry(dsn: str, connection: asyncpg.Connection) -> None:
    """Without the month of its clock, PostgreSQL refuses an entry; the round makes it."""
    async with Ledger(dsn, LedgerOptions()) as ledger:
        given = [(await ledger.reserve(messages.reserve(f"t{n}"))).assignment for n in range(5)]
        for (name,) in await connection.fetch(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid "
            "WHERE inhparent = 'ledger'::regclass"
        ):
            await connection.execute(f"DROP TABLE {name}")
        settled = await asyncio.gather(
            *(
                ledger.settle(
                    Settle(
                        job_id=job.job_id,
                        fencing_token=1,
                        outcome=Outcome.COMPLETED,
                        usage=Usage(prompt_tokens=1, completion_tokens=1),
                    )
                )
                for job in given
            )
        )
    assert all(answer.first for answer in settled)
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 5
