"""Refunds: never more than is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import Usage
from actors.core.price import Price, charge_micros
from actors.core.refund import Refund, refund_of
from actors.core.sealing import LedgerEntry
from supervision.errors import BadRequest
from tests.support.money import PRICES, TOKENS, entry


def billed(used: Usage, price: Price) -> list[LedgerEntry]:
    return [
        entry(
            1,
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            reasoning_tokens=used.reasoning_tokens,
            output_tokens=used.completion_tokens,
            micros=charge_micros(used, price),
        )
    ]


def and_back(entries: list[LedgerEntry], refund: Refund) -> list[LedgerEntry]:
    names = ("prompt_tokens", "cached_tokens", "reasoning_tokens", "output_tokens", "micros")
    amounts = dict(zip(names, (-n for n in refund.columns), strict=True))
    return [*entries, entry(2, kind="refund", number=2, **amounts)]


@given(PRICES, TOKENS, st.data())
def test_token_by_token_all_comes_back_and_no_more(
    price: Price, tokens: Usage, data: st.DataObject
) -> None:
    entries = billed(tokens, price)
    while left := sum(e.prompt_tokens + e.output_tokens for e in entries):
        back = data.draw(st.integers(max(1, left // 3), left))
        refund = refund_of(entries, price, tokens=back)
        assert all(n >= 0 for n in refund.columns)
        assert refund.prompt + refund.output == back
        assert refund.output == min(back, sum(e.output_tokens for e in entries)), "the last first"
        entries = and_back(entries, refund)
        for name in ("prompt", "cached", "reasoning", "output"):
            assert sum(getattr(e, f"{name}_tokens") for e in entries) >= 0
        assert sum(e.micros for e in entries) >= 0
    assert sum(e.micros for e in entries) == 0 or tokens == Usage()


def test_what_is_given_back() -> None:
    price = Price(version=1, model="*", currency="EUR", prompt=10, output=10**6, request=7)
    entries = billed(Usage(prompt_tokens=100, completion_tokens=20), price)
    assert refund_of(entries, price) == Refund(prompt=100, output=20, micros=28)
    assert refund_of(entries, price, tokens=5) == Refund(output=5, micros=5)
    assert refund_of(entries, None, tokens=5) == Refund(output=5)
    assert refund_of(entries, price, tokens=30) == Refund(prompt=10, output=20, micros=20)
    assert refund_of(entries, price, tokens=120) == Refund(prompt=100, output=20, micros=28)
    assert refund_of(entries, price, micros=28) == Refund(micros=28)
    money_first = and_back(entries, Refund(micros=27))
    assert refund_of(money_first, price, tokens=5) == Refund(output=5, micros=1), "what is left"


@pytest.mark.parametrize(
    ("tokens", "micros", "says"),
    [(0, None, "0 tokens"), (121, None, "120 are left"), (-1, None, "-1 tokens"), (1, 1, "one of"),
     (None, 0, "0 micros"), (None, 10**6, "0.000028 EUR is left"), (None, -5, "-5 micros")],
)  # fmt: skip
def test_what_is_not(tokens: int | None, micros: int | None, says: str) -> None:
    price = Price(version=1, model="*", currency="EUR", prompt=10, output=10**6, request=7)
    entries = billed(Usage(prompt_tokens=100, completion_tokens=20), price)
    with pytest.raises(BadRequest, match=says):
        refund_of(entries, price, tokens=tokens, micros=micros)


def test_nothing_is_left() -> None:
    price = Price(version=1, model="*", currency="EUR", output=10**6)
    entries = billed(Usage(completion_tokens=20), price)
    with pytest.raises(BadRequest, match="nothing is left"):
        refund_of(and_back(entries, refund_of(entries, price)), price)
