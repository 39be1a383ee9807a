"""Prices in PostgreSQL: added by operators and by configurations, and held in memory by whoever
reserves. A version is never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from actors.core.price import Price
from actors.core.price_options import AMOUNTS, PriceOptions, price_problems
from actors.stores.keys import DatabaseConnection
from actors.stores.queries import sql
from supervision.errors import BadRequest

__all__ = ["AMOUNTS", "PriceVersion", "add", "configure", "in_force", "shown"]

LOCK: Final = 0x7E7A_2D53  # any number that no other program locks in this database
CONFIGURATION: Final = "configuration"
"""Who made the price of an entry of `[[prices]]`."""
MOST: Final = 10_000  # prices that are in force or to come


class PriceVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table: micros for a million tokens, and for each request."""

    version: int
    model: str
    currency: str
    prompt: int
    cached: int
    reasoning: int
    output: int
    request: int
    from_at: datetime
    made_at: datetime
    made_by: str


async def in_force(connection: DatabaseConnection) -> list[Price]:
    """All prices in force or to come.

    Raises:
        BadRequest: there are more than a reservation holds, by SQL of somebody else's.
    """
    rows = await connection.fetch(sql("list_prices"), MOST + 1)
    if len(rows) > MOST:
        raise BadRequest(
            f"more than {MOST} prices are in force or to come; price names in place of versions"
        )
    return [Price(**dict(row)) for row in rows]


async def shown(
    connection: DatabaseConnection, model: str = "", most: int = 1000
) -> list[PriceVersion]:
    """The newest versions of the price of a model, or of all (""), newest first."""
    rows = await connection.fetch(sql("show_prices"), model, most)
    return [PriceVersion(**dict(row)) for row in rows]


async def add(connection: DatabaseConnection, said: PriceOptions, by: str) -> PriceVersion:
    """A new price, which holds from its `from` on or from now; in the transaction of the caller.

    Raises:
        BadRequest: an amount or the currency is none, another currency is sold already, there are
            too many, or it would begin in the past.
    """
    for problem in price_problems(said):
        raise BadRequest(problem.sentence, param=problem.path)
    if said.begins is not None and said.begins < datetime.now(UTC):
        raise BadRequest(
            f"{said.since} is past, and what was reserved has its price; give a time to come, or "
            "none for now",
            param="from",
        )
    await connection.execute(sql("lock_prices"), LOCK)
    return await _add(connection, said, by, await in_force(connection))


async def configure(connection: DatabaseConnection, listed: Sequence[PriceOptions]) -> int:
    """Have the prices of a configuration: those that it has said before, last for that model and
    time, are there. Returns how many were added; in the transaction of the caller.

    Raises:
        BadRequest: as for `add`.
    """
    if not listed:
        return 0
    await connection.execute(sql("lock_prices"), LOCK)
    rows = await connection.fetch(sql("configured_prices"), CONFIGURATION)
    said = {(row["model"], row["since"]): _terms(row) for row in rows}
    known = await in_force(connection)
    added = 0
    for option in listed:
        since = option.begins
        price = option.price()
        terms = (price.currency, *(getattr(price, name) for name in AMOUNTS))
        if said.get((option.model, since)) != terms:
            await _add(connection, option, CONFIGURATION, known)
            added += 1
    return added


async def _add(
    connection: DatabaseConnection, said: PriceOptions, by: str, known: list[Price]
) -> PriceVersion:
    other = next((p.currency for p in known if p.currency != said.currency), None)
    if other is not None:
        raise BadRequest(
            f"prices of this cluster are in {other}, and budgets add them up; give this one in "
            f"{other}, too",
            param="currency",
        )
    if len(known) >= MOST:
        raise BadRequest(
            f"{MOST} prices are in force or to come, and a reservation holds no more; price names "
            "in place of versions"
        )
    price = said.price()
    row = await connection.fetchrow(
        sql("add_price"),
        price.model,
        price.currency,
        *(getattr(price, name) for name in AMOUNTS),
        said.begins,
        by,
    )
    known.append(price)
    return PriceVersion(
        **dict(row),
        model=price.model,
        currency=price.currency,
        **{name: getattr(price, name) for name in AMOUNTS},
        made_at=datetime.now(UTC),
        made_by=by,
    )


def _terms(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["currency"], *(row[name] for name in AMOUNTS))
