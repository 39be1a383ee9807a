"""`tether ledger` and `tether receipt`: on the database of the running node, or the one of the
DSN."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from actors.core.ledger_audit import LedgerAudit
from actors.core.money import shown
from actors.core.receipt import Receipt
from actors.core.refund import Refund
from actors.core.sealing import LedgerBlock
from actors.stores import books
from actors.stores.books import StatementLine
from actors.stores.database import Database
from actors.stores.ledger_audit import audit
from supervision.telemetry.audit import Who
from tether.admin.grid import Cell, Grid
from tether.cli.failure import CommandFailed
from tether.cli.keys import dsn
from tether.cli.node import audited
from tether.cli.stored import with_database
from tether.config import Config

_LONG_S: Final = 120.0  # for a statement, or all blocks of a receipt
_TOKENS: Final = ("prompt_tokens", "cached_tokens", "reasoning_tokens", "output_tokens")


def verify(config: Config, heads: Sequence[str]) -> int:
    """Print what an audit found.

    Raises:
        CommandFailed: the ledger isn't what was sealed; each difference is a sentence.
    """
    keep = config.stores.keep_ledger_days
    gone_before = datetime.now(UTC) - timedelta(days=keep) if keep else None
    found = asyncio.run(audit(dsn(config), heads, gone_before=gone_before))
    if not found.sound:
        more = (f"and {found.unnamed} more",) if found.unnamed else ()
        raise CommandFailed(*found.faults, *more)
    print(_said(found))
    return 0


def _said(found: LedgerAudit) -> str:
    last = "none" if found.head is None else f"{found.head.number} {found.head.hash}"
    parts = [f"{found.entries} entries in {found.blocks} blocks are what was sealed"]
    if found.unsealed:
        parts.append(f"{found.unsealed} are not sealed yet")
    if found.gone:
        parts.append(f"{found.gone} are past retention")
    return f"{'; '.join(parts)}; the head is {last}"


def head(config: Config, *, as_json: bool) -> int:
    """Print the last block: its number and its hash.

    Raises:
        CommandFailed: none was sealed yet.
    """

    async def run(database: Database) -> LedgerBlock | None:
        return await books.head(database)

    found = with_database(config, run)
    if found is None:
        raise CommandFailed("nothing of the ledger is sealed yet; try again in some minutes")
    print(msgspec.json.encode(found).decode() if as_json else f"{found.number} {found.hash}")
    return 0


def refund(config: Config, job: str, reason: str, *, tokens: int | None, micros: int | None) -> int:
    """Give back a part of a bill, and say how much; in the audit log.

    Raises:
        CommandFailed: no node runs here, or its audit log can't be written.
        BadRequest: it is more than is left, or nothing was billed.
    """
    who = Who.here()

    async def run(database: Database) -> Refund:
        by = who.user or f"uid {who.uid}"
        return await books.refund(database, job, reason, by, tokens=tokens, micros=micros)

    words = [job, *(f"--tokens {tokens}" for _ in [0] if tokens is not None)]
    words += [f"--micros {micros}"] if micros is not None else []
    done = audited(config, "ledger refund", [*words, reason], lambda: with_database(config, run))
    print(f"gave back {done.prompt + done.output} tokens and {shown(done.micros)} of {job}")
    return 0


def receipt(config: Config, job: str, to_block: int, *, as_json: bool) -> int:
    """Print what a job was billed; with `as_json` all that proves it.

    Raises:
        BadRequest: nothing was billed for it, or there is no such head.
    """

    async def run(database: Database) -> Receipt:
        return await books.receipt(database, job, to_block)

    found = with_database(config, run, timeout_s=_LONG_S)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return 0
    rows: list[tuple[Cell, ...]] = [
        ("entry", "at", "kind", "model", "prompt", "output", "money", "block", "note"),
        *(
            (
                str(entry.number),
                entry.at,
                entry.kind,
                entry.model_ref,
                str(entry.prompt_tokens),
                str(entry.output_tokens),
                shown(entry.micros, entry.currency),
                "not sealed yet" if listed.block is None else str(listed.block),
                entry.note,
            )
            for listed in found.entries
            for entry in [listed.columns]
        ),
    ]
    Grid(rows, headed=True, right=(0, 4, 5, 6)).show()
    bill = found.bill
    print(
        f"{bill['prompt_tokens']} + {bill['output_tokens']} tokens, "
        f"{shown(int(bill['micros']), str(bill['currency']))}"
    )
    if found.blocks:
        print(f"head {found.blocks[-1].number} {found.blocks[-1].hash}")
    return 0


def statement(config: Config, tenant: str, month: str, *, as_json: bool, as_csv: bool) -> int:
    """Print what a tenant was billed in a month.

    Raises:
        CommandFailed: two formats are asked for.
        BadRequest: it is no month.
    """
    if as_json and as_csv:
        raise CommandFailed("a statement is printed as --json or as --csv", code=2)

    async def run(database: Database) -> list[StatementLine]:
        return await books.statement(database, tenant, month)

    lines = with_database(config, run, timeout_s=_LONG_S)
    if as_json:
        for line in lines:
            print(msgspec.json.encode(msgspec.to_builtins(line)).decode())
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(StatementLine.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(line) for line in lines)
    else:
        _table(lines).show()
    return 0


def _table(lines: Sequence[StatementLine]) -> Grid:
    rows: list[tuple[Cell, ...]] = [
        ("day", "model", "key", "jobs", "prompt", "cached", "reasoning", "output", "money")
    ]
    for line in lines:
        key = line.key_name or line.key_id or ""
        counts = (str(getattr(line, name)) for name in ("jobs", *_TOKENS))
        rows.append(
            (str(line.day), line.model_ref, key, *counts, shown(line.micros, line.currency))
        )
    for currency in sorted({line.currency for line in lines}):
        of_it = [line for line in lines if line.currency == currency]
        counts = (str(sum(getattr(line, name) for line in of_it)) for name in ("jobs", *_TOKENS))
        money = shown(sum(line.micros for line in of_it), currency)
        rows.append(("in all", "", "", *counts, money))
    return Grid(rows, headed=True, whole=(0, 1, 8), right=(3, 4, 5, 6, 7, 8))
