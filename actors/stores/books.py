"""The books of the ledger, for operators: statements, receipts, refunds, the head."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final

import asyncpg
import msgspec

from actors.core.price import Price
from actors.core.receipt import Receipt, receipt_of
from actors.core.refund import Refund, refund_of
from actors.core.sealing import LedgerBlock, LedgerEntry, block_of, entry_of, unpack_leaves
from actors.stores.keys import DatabaseConnection
from actors.stores.message_check import check_uuid
from actors.stores.queries import sql
from supervision.errors import BadRequest, Unavailable

_TRIES: Final = 3


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant was billed on a day for a model, asked for by one key."""

    day: date
    model_ref: str
    key_id: str | None
    key_name: str
    jobs: int
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    output_tokens: int
    micros: int
    currency: str


def month_of(text: str) -> tuple[datetime, datetime]:
    """When a month such as `2026-11` begins, and when the next one does, in UTC.

    Raises:
        BadRequest: it is none.
    """
    try:
        begins = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        if len(text) != 7 or not 1970 <= begins.year < 9000:
            raise ValueError(text)
    except ValueError:
        raise BadRequest(f"{text!r} is no month; write it like 2026-11", param="month") from None
    return begins, next_month(begins)


async def statement(
    connection: DatabaseConnection, tenant_id: str, month: str
) -> list[StatementLine]:
    """What a tenant was billed in a month, by day, model and key.

    Raises:
        BadRequest: it is no month.
    """
    rows = await connection.fetch(sql("statement"), tenant_id, *month_of(month))
    return [StatementLine(**dict(row)) for row in rows]


async def head(connection: DatabaseConnection) -> LedgerBlock | None:
    """The block that was sealed last; None if none was."""
    row = await connection.fetchrow(sql("last_block"))
    return None if row is None else block_of(row)


async def entries(connection: DatabaseConnection, job: str) -> list[LedgerEntry]:
    """The entries of a job, in order.

    Raises:
        BadRequest: it is no id of a job, or nothing was billed for it.
    """
    rows = await connection.fetch(sql("entries_of_job"), check_uuid(job))
    if not rows:
        raise BadRequest(f"nothing was billed for job {job}", param="job")
    return [entry_of(row) for row in rows]


async def receipt(connection: DatabaseConnection, job: str, to_block: int = 0) -> Receipt:
    """All entries of a job with the way to the head, or to block `to_block`.

    Raises:
        BadRequest: as `entries`; or that block isn't there, or older than an entry.
        Unavailable: what was kept of a block isn't what it holds.
    """
    found = await entries(connection, job)
    last = await head(connection)
    numbers = []
    for entry in found:
        row = await connection.fetchrow(
            sql("block_of_entry"), entry.seq, datetime.fromisoformat(entry.at)
        )
        if row is not None:
            numbers.append(int(row["number"]))
    if last is None or not numbers:
        return receipt_of(found, {}, ())
    to = to_block or last.number
    if not max(numbers) <= to <= last.number:
        raise BadRequest(
            f"a receipt of this job leads to a block from {max(numbers)} to {last.number}, and not "
            f"to {to}",
            param="head",
        )
    rows = await connection.fetch(sql("blocks_between"), min(numbers), to)
    leaves = {}
    for number in set(numbers):
        row = await connection.fetchrow(sql("leaves_of_block"), number)
        leaves[number] = unpack_leaves(row["leaves"] if row else b"")
    try:
        return receipt_of(found, leaves, [block_of(row) for row in rows])
    except ValueError as error:
        raise Unavailable(f"{error}; see what `tether ledger verify` says") from error


async def refund(
    connection: DatabaseConnection,
    job: str,
    reason: str,
    by: str,
    *,
    tokens: int | None = None,
    micros: int | None = None,
) -> Refund:
    """Give back the last `tokens` of an answer at the price of its job, or `micros` of money, or
    all that is left of its bill.

    Raises:
        BadRequest: it is more than is left, nothing is left, or there is no reason.
        Unavailable: the bill changed again and again meanwhile.
    """
    if not 0 < len(reason) <= 1000 or not reason.isprintable():
        raise BadRequest(
            "a refund needs a reason of at most 1,000 characters that can be printed",
            param="reason",
        )
    for _ in range(_TRIES):
        known = await entries(connection, job)
        amounts = refund_of(
            known, await _price(connection, known[0].price), tokens=tokens, micros=micros
        )
        try:
            await connection.fetchrow(
                sql("refund"), check_uuid(job), len(known), *amounts.columns, reason, by
            )
        except asyncpg.SerializationError:
            continue
        except (asyncpg.NumericValueOutOfRangeError, asyncpg.InvalidParameterValueError) as error:
            raise BadRequest(str(error)) from error
        return amounts
    raise Unavailable(f"the bill of job {job} changes all the time; try again")


async def _price(connection: DatabaseConnection, version: int | None) -> Price | None:
    if version is None:
        return None
    row = await connection.fetchrow(sql("price_of_version"), version)
    return None if row is None else Price(**dict(row))


def next_month(begins: datetime) -> datetime:
    """When the month after the one that begins then does."""
    year, month = divmod(begins.year * 12 + begins.month, 12)
    return begins.replace(year=year, month=month + 1)
