"""Prices of models, as operators see and add them.

Pure.
"""

from __future__ import annotations

from supervision.contracts.contract import Contract, Value


class ModelPrice(Value, frozen=True):
    """What tokens of `model` (a name, `name@version`, or `*` for all others) cost from the Unix
    time `from_s` on (None: from now), in micros for a million tokens and for each request. 0 is
    the `version` of one that isn't made yet."""

    model: str
    currency: str
    prompt: int = 0
    cached: int = 0
    reasoning: int = 0
    output: int = 0
    request: int = 0
    from_s: float | None = None
    version: int = 0
    made_by: str = ""


class AddPrice(Contract, frozen=True):
    """An operator's process → registry: a new version of a price, for what is reserved from then
    on; answered with `PricesShown` of it. A version is never changed."""

    price: ModelPrice
    by: str = ""


class ShowPrices(Contract, frozen=True):
    """An operator's process → registry: all prices in force or to come, or the newest versions of
    one model's."""

    model: str = ""


class PricesShown(Contract, frozen=True):
    """Newest first. `more`: there are others, older than these."""

    prices: tuple[ModelPrice, ...]
    more: bool = False
