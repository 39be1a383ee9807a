"""Prices, and what an answer costs by them: whole micro-units of money, rounded up once.

The same as the SQL function `charge_micros` (actors/stores/schema.sql).

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from actors.contracts import Usage

MILLION = 1_000_000
ALL_MODELS = "*"


class Price(NamedTuple):
    """A row of the table `prices`: micro-units of money per million tokens, and per request, from
    a time on (`from_at`, seconds since 1970). `model` is `name@version`, `name`, or `*`."""

    version: int
    model: str
    currency: str
    prompt: int
    cached: int
    reasoning: int
    output: int
    request: int = 0
    from_at: float = 0.0


def charge_micros(usage: Usage, price: Price | None) -> int:
    """What `usage` costs, in micro-units of money; 0 without a price. Cached tokens are part of
    the prompt and reasoning ones of the completion; whoever says more of them is not believed."""
    if price is None:
        return 0
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    parts = (
        (usage.prompt_tokens - cached) * price.prompt
        + cached * price.cached
        + (usage.completion_tokens - reasoning) * price.output
        + reasoning * price.reasoning
    )
    return price.request + -(-parts // MILLION)


class PriceBook:
    """All prices, by the model that they are for; replaced as a whole when the table changes."""

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        self._by_model: dict[str, tuple[Price, ...]] = {}
        self.replace(prices)

    def replace(self, prices: Iterable[Price]) -> None:
        """These are all there are from here on."""
        by_model: dict[str, list[Price]] = {}
        for price in prices:
            by_model.setdefault(price.model, []).append(price)
        self._by_model = {
            model: tuple(sorted(found, key=lambda one: (one.from_at, one.version), reverse=True))
            for model, found in by_model.items()
        }

    def of(self, model_ref: str, at: float) -> Price | None:
        """The price of `name@version` at that time, in seconds since 1970: of the most exact model
        that has one in force, the latest; None if none is."""
        if not self._by_model:
            return None
        for model in (model_ref, model_ref.partition("@")[0], ALL_MODELS):
            for price in self._by_model.get(model, ()):
                if price.from_at <= at:
                    return price
        return None

    def version_of(self, model_ref: str, at: float) -> int | None:
        """The version of `of`."""
        price = self.of(model_ref, at)
        return None if price is None else price.version
