"""Prices of models, which of them is in force, and what a job costs by it. Pure.

`charge` is what the SQL function `charge_micros` computes, which writes the bill; here it is for
whoever must know before: budgets, refunds, receipts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

import msgspec

from actors.core.money import MICROS

EVERY: Final = "*"
"""The model of a price for all that have none of their own."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a price. `model` is a name, `name@version`, or `*`; `prompt`, `cached`,
    `reasoning` and `output` are micros of `currency` for a million tokens, `request` micros for
    each request. In force since `from_at`, seconds since 1970."""

    version: int
    model: str
    currency: str
    prompt: int = 0
    cached: int = 0
    reasoning: int = 0
    output: int = 0
    request: int = 0
    from_at: float = 0.0


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a job as OpenAI counts them: `cached` are a part of `prompt`, and `reasoning` of
    `output`."""

    prompt: int = 0
    cached: int = 0
    reasoning: int = 0
    output: int = 0


def charge(price: Price, tokens: TokenCount) -> int:
    """What these tokens and one request cost, in micros, rounded up once. A part that is said to be
    more than its whole counts as the whole, and a number below 0 as none."""
    prompt, output = max(0, tokens.prompt), max(0, tokens.output)
    cached = min(max(0, tokens.cached), prompt)
    reasoning = min(max(0, tokens.reasoning), output)
    exact = (
        (prompt - cached) * price.prompt
        + cached * price.cached
        + (output - reasoning) * price.output
        + reasoning * price.reasoning
    )
    return -(-exact // MICROS) + price.request


class PriceBook:
    """All prices in force or to come, for look-ups by model and time."""

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        self._by_version: dict[int, Price] = {}
        self._by_model: dict[str, tuple[list[float], list[Price]]] = {}
        self.replace(prices)

    def replace(self, prices: Iterable[Price]) -> None:
        """These are all there are from here on."""
        self._by_version, self._by_model = {}, {}
        for price in sorted(prices, key=lambda price: (price.from_at, price.version)):
            self._by_version[price.version] = price
            since, listed = self._by_model.setdefault(price.model, ([], []))
            since.append(price.from_at)
            listed.append(price)

    def __len__(self) -> int:
        return len(self._by_version)

    def of(self, model_ref: str, at: float) -> Price | None:
        """The price of a job of `model_ref` that is reserved then: of the most exact pattern that
        has one in force (`name@version`, the name, `*`) that which began last, and of two that
        began at once the later version. None: it has no price."""
        for model in (model_ref, model_ref.partition("@")[0], EVERY):
            if (known := self._by_model.get(model)) is not None:
                since, listed = known
                if number := bisect_right(since, at):
                    return listed[number - 1]
        return None

    def version_of(self, model_ref: str, at: float) -> int | None:
        """The version of `of`."""
        price = self.of(model_ref, at)
        return None if price is None else price.version

    def price(self, version: int) -> Price | None:
        """The price of this version; None if the book lacks it."""
        return self._by_version.get(version)
