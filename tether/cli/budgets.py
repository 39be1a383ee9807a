"""`tether budgets`: on the database of the running node, or the one of the DSN."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from actors.contracts.budgets import BudgetPeriod, BudgetState, TenantBudget
from actors.stores import budgets
from actors.stores.database import Database
from tether.admin.grid import Cell, Grid
from tether.cli.failure import CommandFailed
from tether.cli.keys import dsn
from tether.config import Config
from tether.http.budgets import entry


def list_(config: Config, tenant: str, *, as_json: bool) -> int:
    """Print all budgets, or those of `tenant`, as they stand."""
    found: list[BudgetState] = []

    async def run() -> None:
        async with Database(dsn(config), size=1) as database:
            more = True
            while more:
                after = found[-1].budget.id if found else 0
                page, more = await budgets.shown(database, tenant, after=after)
                found.extend(page)

    asyncio.run(run())
    _print(found, as_json=as_json)
    return 0


def show(config: Config, id: int, *, as_json: bool) -> int:
    """Print one budget with the events of its shares.

    Raises:
        CommandFailed: there is none of that id.
    """

    async def run() -> tuple[BudgetState, ...]:
        async with Database(dsn(config), size=1) as database:
            found, _ = await budgets.shown(database, id=id) if id > 0 else ((), False)
            return found

    found = asyncio.run(run())
    if not found:
        raise CommandFailed(f"there is no budget {id}; `tether budgets list` shows all")
    _print(found, as_json=as_json)
    if not as_json and found[0].events:
        rows: list[tuple[Cell, ...]] = [("period", "share", "spent", "of", "at")]
        rows += [
            (event["begins"], f"{event['share']} %", event["spent"], event["amount"], event["at"])
            for event in entry(found[0])["events"]
        ]
        Grid(rows, headed=True, whole=(0, 1, 2, 3, 4)).show()
    return 0


def set_(config: Config, budget: TenantBudget, *, as_json: bool) -> int:
    """Make a budget, or change the one that is for the same, and print it."""

    async def run() -> BudgetState:
        async with Database(dsn(config), size=1) as database:
            return await budgets.set_(database, budget)

    _print([asyncio.run(run())], as_json=as_json)
    return 0


def remove(config: Config, id: int) -> int:
    """End a budget, and say how it stood."""

    async def run() -> BudgetState:
        async with Database(dsn(config), size=1) as database:
            return await budgets.remove(database, id)

    state = asyncio.run(run())
    print(f"removed budget {id}, of which {state.spent} {state.budget.unit} were spent")
    return 0


def amount_of(text: str) -> int:
    """Micros or tokens, as they are typed: a whole number, `_` and `,` between its digits.

    Raises:
        CommandFailed: it is none.
    """
    try:
        return int(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise CommandFailed(
            f"{text[:60]!r} is no whole number; an amount is in tokens, or in micros of money "
            "(5,000,000 are 5.00)"
        ) from None


def shares_of(text: str) -> tuple[int, ...]:
    """Shares in per cent, with commas in between.

    Raises:
        CommandFailed: they are none.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise CommandFailed(f"{text[:60]!r} are no shares; write them as 80,95") from None


def _print(states: Iterable[BudgetState], *, as_json: bool) -> None:
    if as_json:
        for state in states:
            print(msgspec.json.encode(entry(state)).decode())
        return
    rows: list[tuple[Cell, ...]] = [
        ("id", "tenant", "key", "model", "period", "from", "amount", "unit", "spent", "reserved",
         "left", "refused"),
    ]  # fmt: skip
    for state in states:
        budget = state.budget
        rows.append(
            (
                str(budget.id),
                budget.tenant_id,
                budget.key_id[:8],
                budget.model,
                str(budget.period),
                state.begins if budget.period is not BudgetPeriod.TOTAL else "",
                f"{budget.amount:,}",
                str(budget.unit),
                f"{state.spent:,}",
                f"{state.reserved:,}",
                f"{state.left:,}",
                str(state.refused),
            )
        )
    Grid(rows, headed=True, whole=(0, 1, 6, 8, 9, 10)).show()
