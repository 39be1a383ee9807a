"""The prices of models, for operators: shown and added to, on record in the audit log."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from actors.contracts.model_prices import AddPrice, ModelPrice, PricesShown, ShowPrices
from actors.core.budget import bounded
from actors.core.money import MICROS, shown
from actors.core.price_options import AMOUNTS, PriceOptions
from actors.registry.audited import audited
from actors.stores import prices
from actors.stores.database import Database
from actors.stores.prices import PriceVersion
from supervision.child import Supervised
from supervision.errors import BadRequest
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR
from supervision.telemetry import logs

log = logs.get(__name__)
SET: Final = "prices set"
MAX_SHOWN: Final = 500  # versions in one answer


class PriceRecords:
    """The part of a registry that answers what operators ask of prices."""

    def __init__(self, actor: Supervised, database: Database) -> None:
        self._actor = actor
        self._database = database

    @on(AddPrice, of=OPERATOR)
    async def add_price(self, msg: AddPrice, sender: Address) -> PricesShown:
        """
        Raises:
            BadRequest: an amount, the model, the currency or the time can be none of a price.
            Unavailable: PostgreSQL, or the audit log, is away.
        """
        said, by = options(msg.price), msg.by or sender.node
        amounts = (f"{name}={shown(getattr(msg.price, name))}" for name in AMOUNTS)
        words = (f"model={said.model}", f"currency={said.currency}", *amounts, f"from={said.since}")
        async with audited(self._actor, msg.by, sender, SET, words):
            made = await self._database.transact(
                lambda connection: prices.add(connection, said, by)
            )
        log.info("a price was added", model=made.model, version=made.version, by=by)
        return PricesShown(prices=(_price(made),))

    @on(ShowPrices, of=OPERATOR)
    async def show_prices(self, msg: ShowPrices, sender: Address) -> PricesShown:
        """
        Raises:
            BadRequest: that is no name of a model.
            Unavailable: PostgreSQL is away.
        """
        bounded("model", msg.model)
        found = await prices.shown(self._database, msg.model, MAX_SHOWN + 1)
        return PricesShown(
            prices=tuple(map(_price, found[:MAX_SHOWN])), more=len(found) > MAX_SHOWN
        )


def options(price: ModelPrice) -> PriceOptions:
    """What a configuration would say.

    Raises:
        BadRequest: the model's name can be none, or the time is none.
    """
    terms: dict[str, Any] = {name: Decimal(getattr(price, name)) / MICROS for name in AMOUNTS}
    try:
        since = None if price.from_s is None else datetime.fromtimestamp(price.from_s, UTC)
        return msgspec.convert(
            {"model": price.model, "currency": price.currency, **terms, "from": since},
            PriceOptions,
        )
    except msgspec.ValidationError as error:
        raise BadRequest(f"a price of {price.model!r}: {error}", param="model") from None
    except (ValueError, OverflowError, OSError):
        raise BadRequest(
            f"{price.from_s} is no time; write a year from 1970 on", param="from"
        ) from None


def _price(row: PriceVersion) -> ModelPrice:
    return ModelPrice(
        model=row.model,
        currency=row.currency,
        prompt=row.prompt,
        cached=row.cached,
        reasoning=row.reasoning,
        output=row.output,
        request=row.request,
        from_s=row.from_at.timestamp(),
        version=row.version,
        made_by=row.made_by,
    )
