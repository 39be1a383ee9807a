"""A tenant with a price and wide budgets, so that each of its requests reserves some of both units;
nothing where the release has none."""

from __future__ import annotations

from typing import Final

from tests.support.bills import Books

PRICE: Final = """
    INSERT INTO prices
        (model, currency, prompt, cached, reasoning, output, request, from_at, made_by)
    VALUES ('*', 'EUR', 1000000, 500000, 3000000, 2000000, 7, now(), 'a proof')
"""
BUDGET: Final = """
    INSERT INTO budgets (tenant_id, model, period, unit, amount, warn, over)
    VALUES ($1, '', 'month', $2, 1000000000000, '{80}', 402)
"""


async def fund(books: Books, tenant: str) -> bool:
    """Whether there is such a thing."""
    if not await books.has("budgets.amount"):
        return False
    if await books.has("prices.version"):
        await books.fetch(PRICE)
    for unit in ("tokens", "micros"):
        await books.fetch(BUDGET, tenant, unit)
    return True
