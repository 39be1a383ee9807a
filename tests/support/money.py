"""Prices, tokens and entries of a ledger, as hypothesis draws them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from actors.contracts import Usage
from actors.core.money import MAX_PRICE
from actors.core.price import Price
from actors.core.sealing import LedgerEntry, stamp

_INT4 = 2**31 - 1
_AMOUNT = st.integers(0, MAX_PRICE) | st.sampled_from((0, 1, MAX_PRICE))
_COUNT = st.integers(0, _INT4) | st.integers(0, 5000)

PRICES = st.builds(
    Price,
    version=st.integers(1, _INT4),
    model=st.just("m"),
    currency=st.just("EUR"),
    prompt=_AMOUNT,
    cached=_AMOUNT,
    reasoning=_AMOUNT,
    output=_AMOUNT,
    request=_AMOUNT,
)


@st.composite
def _tokens(draw: st.DrawFn) -> Usage:
    prompt, output = draw(_COUNT), draw(_COUNT)
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=draw(st.integers(0, prompt)),
        reasoning_tokens=draw(st.integers(0, output)),
        completion_tokens=output,
    )


TOKENS = _tokens()


def entry(seq: int, **changed: object) -> LedgerEntry:
    """One that could be of a ledger; each has other words in it."""
    columns: dict[str, object] = {
        "seq": seq,
        "at": stamp(datetime(2026, 11, 3, 10, tzinfo=UTC) + timedelta(seconds=seq, microseconds=7)),
        "job_id": str(uuid.UUID(int=seq)),
        "number": 1,
        "kind": "charge",
        "tenant_id": f"acme-{seq % 7}",
        "key_id": None if seq % 3 else str(uuid.UUID(int=seq % 5)),
        "endpoint": "chat",
        "model_ref": "smollm2@1",
        "attempt": 1,
        "outcome": "completed",
        "prompt_tokens": seq % 100,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "output_tokens": seq % 50,
        "micros": seq,
        "price": 1,
        "currency": "EUR",
        "note": "",
        "made_by": "",
    }
    return LedgerEntry(**(columns | changed))  # type: ignore[arg-type]
