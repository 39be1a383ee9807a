"""`tether prices`: on the database of the running node, or the one of the DSN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from actors.core.money import shown
from actors.core.price_options import PriceOptions, price_problems
from actors.stores import prices
from actors.stores.database import Database
from actors.stores.prices import PriceVersion
from supervision.settings import Problem, read_section
from supervision.telemetry.audit import Who
from tether.admin.grid import Cell, Grid
from tether.cli.failure import CommandFailed
from tether.cli.node import audited
from tether.cli.stored import with_database
from tether.config import Config


def list_(config: Config, *, as_json: bool) -> int:
    """Print the prices in force or to come."""

    async def run(database: Database) -> list[PriceVersion]:
        holding = {price.version for price in await prices.in_force(database)}
        return [v for v in await prices.shown(database, "", prices.MOST) if v.version in holding]

    _print(with_database(config, run), as_json=as_json)
    return 0


def show(config: Config, model: str, *, as_json: bool) -> int:
    """Print all versions of one model's price.

    Raises:
        CommandFailed: it has none.
    """

    async def run(database: Database) -> list[PriceVersion]:
        return await prices.shown(database, model)

    found = with_database(config, run)
    if not found:
        raise CommandFailed(f"{model!r} has no price of its own; `tether prices list` shows all")
    _print(found, as_json=as_json)
    return 0


def set_(config: Config, said: Mapping[str, str]) -> int:
    """Add a version of a price, and say which; in the audit log.

    Raises:
        CommandFailed: it can't be one, no node runs here, or its audit log can't be written.
        BadRequest: it would begin in the past, or is in another currency than the others.
    """
    options = _read(said)
    who = Who.here()

    async def run(database: Database) -> PriceVersion:
        by = who.user or f"uid {who.uid}"
        return await database.transact(lambda connection: prices.add(connection, options, by))

    words = [f"{name}={text}" for name, text in said.items()]
    made = audited(config, "prices set", words, lambda: with_database(config, run))
    print(f"price {made.version} of {made.model} holds from {made.from_at:%Y-%m-%d %H:%M:%S} UTC")
    return 0


def _read(said: Mapping[str, str]) -> PriceOptions:
    raw: dict[str, object] = dict(said)
    problems: list[Problem] = []
    if "from" in raw:
        try:
            raw["from"] = datetime.fromisoformat(said["from"])
        except ValueError:
            raise CommandFailed(
                f"from: {said['from']!r} is no time; write it like 2027-01-01T00:00:00Z", code=2
            ) from None
    read = read_section(PriceOptions, raw, "", problems, {})
    if read is not None and not problems:
        problems += price_problems(read)
    if read is None or problems:
        raise CommandFailed(*(str(problem) for problem in problems), code=2)
    return read


def _print(found: Sequence[PriceVersion], *, as_json: bool) -> None:
    if as_json:
        for price in found:
            print(msgspec.json.encode(price).decode())
        return
    rows: list[tuple[Cell, ...]] = [
        ("version", "model", "currency", "prompt", "cached", "reasoning", "output", "request",
         "from", "made by"),
        *(
            (
                str(price.version),
                price.model,
                price.currency,
                *(shown(getattr(price, name)) for name in prices.AMOUNTS),
                f"{price.from_at:%Y-%m-%d %H:%M}",
                price.made_by,
            )
            for price in found
        ),
    ]  # fmt: skip
    Grid(rows, headed=True, whole=(1,), right=(0, 3, 4, 5, 6, 7)).show()
