"""Prices of models, which of them is in force, and what an answer costs by it. Pure.

`charge_micros` is what the SQL function of that name computes, which writes the bill; here it is
for whoever must know before: budgets, refunds, receipts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from actors.contracts import Usage

MILLION: Final = 1_000_000
ALL_MODELS: Final = "*"
"""The model of a price for all that have none of their own."""


class Price(NamedTuple):
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


def charge_micros(usage: Usage, price: Price | None) -> int:
    """What these tokens and one request cost, in micros, rounded up once; 0 without a price. Cached
    tokens are part of the prompt and reasoning ones of the completion; whoever says more of them
    is not believed."""
    if price is None:
        return 0
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    exact = (
        (usage.prompt_tokens - cached) * price.prompt
        + cached * price.cached
        + (usage.completion_tokens - reasoning) * price.output
        + reasoning * price.reasoning
    )
    return -(-exact // MILLION) + price.request


class PriceBook:
    """All prices in force or to come, by the model that they are for; replaced as a whole when the
    table changes."""

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        self._by_version: dict[int, Price] = {}
        self._by_model: dict[str, tuple[list[float], list[Price]]] = {}
        self.replace(prices)

    @property
    def size(self) -> int:
        """How many versions it holds."""
        return len(self._by_version)

    def replace(self, prices: Iterable[Price]) -> None:
        """These are all there are from here on."""
        by_version: dict[int, Price] = {}
        by_model: dict[str, tuple[list[float], list[Price]]] = {}
        for price in sorted(prices, key=lambda price: (price.from_at, price.version)):
            by_version[price.version] = price
            since, listed = by_model.setdefault(price.model, ([], []))
            since.append(price.from_at)
            listed.append(price)
        self._by_version, self._by_model = by_version, by_model

    def of(self, model_ref: str, at: float) -> Price | None:
        """The price of a job of `name@version` that is reserved then, in seconds since 1970: of the
        most exact model that has one in force (`name@version`, the name, `*`) that which began
        last, and of two that began at once the later version. None: it has no price."""
        if not self._by_model:
            return None
        for model in (model_ref, model_ref.partition("@")[0], ALL_MODELS):
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
