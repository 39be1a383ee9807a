"""Prices: what is in force, what it comes to, and what a configuration may say."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import Usage
from actors.core.money import MAX_PRICE, MICROS, NotMoney, micros_of, shown
from actors.core.price import Price, PriceBook, charge_micros
from actors.core.price_options import PriceOptions, price_violations
from supervision.settings import ConfigInvalid
from tests.support.money import PRICES, TOKENS
from tether.config.reading import parse

NODE = """
[[models]]
name = "echo"
engine = "echo"
[[workers]]
id = "w"
models = ["echo"]
"""


@given(PRICES, TOKENS)
def test_a_charge_is_the_exact_sum_rounded_up_once(price: Price, used: Usage) -> None:
    exact = Fraction(
        (used.prompt_tokens - used.cached_tokens) * price.prompt
        + used.cached_tokens * price.cached
        + (used.completion_tokens - used.reasoning_tokens) * price.output
        + used.reasoning_tokens * price.reasoning,
        MICROS,
    )
    assert 0 <= charge_micros(used, price) - price.request - exact < 1
    assert charge_micros(used, None) == 0


@given(PRICES, TOKENS, TOKENS)
def test_more_tokens_never_cost_less(price: Price, one: Usage, other: Usage) -> None:
    more = msgspec.structs.replace(
        one,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
    )
    assert charge_micros(more, price) >= charge_micros(one, price)


def test_a_part_above_its_whole_is_the_whole() -> None:
    price = Price(version=1, model="*", currency="EUR", prompt=8, cached=2, reasoning=3, output=5)
    odd = Usage(
        prompt_tokens=10**6,
        cached_tokens=2 * 10**6,
        completion_tokens=10**6,
        reasoning_tokens=3 * 10**6,
    )
    assert charge_micros(odd, price) == 2 + 3


BOOK = PriceBook(
    Price(version=version, model=model, currency="EUR", from_at=from_at)
    for version, model, from_at in (
        (1, "*", 0), (2, "m", 10), (3, "m@2", 20), (4, "m", 30), (5, "m", 30), (6, "*", 40),
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("model_ref", "at", "version"),
    [
        ("other@1", 0, 1), ("other@1", 39, 1), ("other@1", 40, 6), ("other@1", -1, None),
        ("m@1", 9, 1), ("m@1", 10, 2), ("m@1", 29, 2), ("m@1", 30, 5), ("m@1", 99, 5),
        ("m@2", 19, 2), ("m@2", 20, 3), ("m@2", 99, 3),
    ],
)  # fmt: skip
def test_the_latest_of_the_most_exact_is_in_force(
    model_ref: str, at: float, version: int | None
) -> None:
    found = BOOK.of(model_ref, at)
    assert (found and found.version) == version == BOOK.version_of(model_ref, at)


def test_a_version_is_found_and_an_empty_book_has_none() -> None:
    assert BOOK.price(3) == Price(version=3, model="m@2", currency="EUR", from_at=20)
    assert BOOK.price(7) is None
    assert BOOK.size == 6
    assert PriceBook().version_of("m@1", 10**18) is None


@given(st.integers(0, MAX_PRICE))
def test_money_is_read_and_shown_exactly(micros: int) -> None:
    text = shown(micros)
    assert micros_of(Decimal(text)) == micros
    assert micros_of(Decimal(repr(float(text)))) == micros, "a number of TOML is one of those"
    assert shown(-micros - 1, "EUR").startswith("-")


@pytest.mark.parametrize(
    "amount",
    ["-0.000001", "NaN", "Infinity", "1000.000001", "0.0000001", "1e-999999", "1e999999",
     "999.99999999999999999999999999999999999"],
)  # fmt: skip
def test_what_is_no_price(amount: str) -> None:
    with pytest.raises(NotMoney):
        micros_of(Decimal(amount))


def test_prices_of_a_configuration() -> None:
    config = parse(
        NODE
        + """
[[prices]]
model = "echo"
currency = "EUR"
prompt = "0.15"
cached = 0.075
output = 0.6
request = 0.0001
[[prices]]
model = "echo"
currency = "EUR"
prompt = 1
from = 2027-01-01T00:00:00+01:00
""",
        folder=Path(),
    )
    first, second = (option.price() for option in config.prices)
    assert first == Price(
        version=0, model="echo", currency="EUR", prompt=150_000, cached=75_000, reasoning=600_000,
        output=600_000, request=100,
    )  # fmt: skip
    assert (second.prompt, second.cached, second.output) == (1_000_000, 1_000_000, 0)
    assert second.from_at == datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("lines", "path", "sentence"),
    [
        ('prompt = -1\ncurrency = "EUR"', "prices[0].prompt", "below 0"),
        ('prompt = "0.1234567"\ncurrency = "EUR"', "prices[0].prompt", "six decimals"),
        ('prompt = "much"\ncurrency = "EUR"', "prices[0].prompt", "decimal"),
        ('prompt = true\ncurrency = "EUR"', "prices[0].prompt", "decimal"),
        ('request = 1001\ncurrency = "EUR"', "prices[0].request", "highest"),
        ('output = nan\ncurrency = "EUR"', "prices[0].output", "no amount"),
        ('currency = "EURO"', "prices[0].currency", "ISO 4217"),
        ("prompt = 1", "prices[0].currency", "required"),
        ('currency = "EUR"\nfrom = 1960-01-01T00:00:00Z', "prices[0].from", "out of range"),
        ('currency = "EUR"\nform = 1', "prices[0].form", "'from'"),
    ],
)
def test_what_is_wrong_with_a_price(lines: str, path: str, sentence: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(f'{NODE}[[prices]]\nmodel = "echo"\n{lines}\n', folder=Path())
    (problem,) = caught.value.problems
    assert problem.path == path
    assert sentence in problem.sentence


def test_two_that_contradict_each_other() -> None:
    at = datetime(2027, 1, 1, tzinfo=UTC)
    same = [PriceOptions(model="m", currency="EUR", since=at) for _ in range(2)]
    assert [p.path for p in price_violations(same)] == ["prices[1].model"]
    mixed = [PriceOptions(model="m", currency=c) for c in ("EUR",)]
    mixed.append(PriceOptions(model="n", currency="USD"))
    (problem,) = price_violations(mixed)
    assert "one currency" in problem.sentence
    later = [PriceOptions(model="m", currency="EUR"), same[0], None]
    assert not list(price_violations(later))
