"""Options of one price, `[[prices]]`, and what is wrong with a list of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from actors.core.money import CURRENCIES, NotMoney, micros_of
from actors.core.price import Price
from supervision.settings import Problem, Section

AMOUNTS: Final = ("prompt", "cached", "reasoning", "output", "request")
MODEL: Final = r"^(\*|[A-Za-z0-9][A-Za-z0-9._/-]{0,126}(@[A-Za-z0-9][A-Za-z0-9._-]{0,62})?)$"
MOST: Final = 4096  # entries of a configuration
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


class PriceOptions(Section, frozen=True, kw_only=True):
    """What tokens of a model cost. `model` is a name, `name@version`, or `*` for all that have no
    other price. `prompt`, `cached`, `reasoning` and `output` are money for a million tokens, and
    `request` for each request: a number, or text such as "0.15", with up to six decimals. Without
    `cached` those tokens cost as others of the prompt, without `reasoning` as other output. In
    force since `from`; without it, since a node first read it."""

    model: Annotated[str, Meta(pattern=MODEL)]
    currency: str
    prompt: Decimal = Decimal(0)
    cached: Decimal | None = None
    reasoning: Decimal | None = None
    output: Decimal = Decimal(0)
    request: Decimal = Decimal(0)
    since: datetime | None = msgspec.field(default=None, name="from")

    @property
    def begins(self) -> datetime | None:
        """`from`; one without an offset is in UTC."""
        if self.since is None or self.since.tzinfo is not None:
            return self.since
        return self.since.replace(tzinfo=UTC)

    def price(self, version: int = 0) -> Price:
        """The same as the ledger knows it.

        Raises:
            NotMoney: an amount can't be a price.
        """
        cached = self.prompt if self.cached is None else self.cached
        reasoning = self.output if self.reasoning is None else self.reasoning
        return Price(
            version=version,
            model=self.model,
            currency=self.currency,
            prompt=micros_of(self.prompt),
            cached=micros_of(cached),
            reasoning=micros_of(reasoning),
            output=micros_of(self.output),
            request=micros_of(self.request),
            from_at=0.0 if self.begins is None else self.begins.timestamp(),
        )


def price_problems(price: PriceOptions, prefix: str = "") -> Iterator[Problem]:
    """What is wrong with one price by itself."""
    if price.currency not in CURRENCIES:
        yield Problem(
            f"{prefix}currency",
            f"{price.currency[:20]!r} is no currency; write its ISO 4217 code, such as 'EUR'",
        )
    for name in AMOUNTS:
        amount = getattr(price, name)
        try:
            micros_of(Decimal(0) if amount is None else amount)
        except NotMoney as error:
            yield Problem(f"{prefix}{name}", str(error))
    begins = price.begins
    if begins is not None and not _EARLIEST <= begins < _LATEST:
        yield Problem(f"{prefix}from", f"{price.since} is out of range; write a year from 1970 on")


def price_violations(prices: Sequence[PriceOptions | None]) -> Iterator[Problem]:
    """What is wrong with `[[prices]]`: each by itself, and two that contradict each other. None
    stands for an entry that couldn't be read."""
    if len(prices) > MOST:
        yield Problem("prices", f"{len(prices)} prices are listed; {MOST} are the most")
    seen: dict[tuple[str, datetime | None], int] = {}
    first: tuple[int, str] | None = None
    for number, price in enumerate(prices):
        if price is None:
            continue
        yield from price_problems(price, f"prices[{number}].")
        before = seen.setdefault((price.model, price.begins), number)
        if before != number:
            when = f"from {price.since}" if price.since else "with no from"
            yield Problem(
                f"prices[{number}].model",
                f"prices[{before}] is a price of {price.model!r} {when} already; remove one, or "
                "let it begin at another time",
            )
        if first is None:
            first = (number, price.currency)
        elif price.currency != first[1]:
            yield Problem(
                f"prices[{number}].currency",
                f"prices[{first[0]}] is in {first[1]}, and budgets add up what models cost; write "
                "all prices in one currency",
            )
