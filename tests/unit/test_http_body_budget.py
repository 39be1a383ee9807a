"""The byte budget of bodies."""

from __future__ import annotations

import pytest

from supervision.errors import Overloaded, RateLimited
from tether.http.body_budget import BodyBudget


def test_a_tenant_has_a_share_and_all_have_the_budget() -> None:
    budget = BodyBudget(in_all=10, per_tenant=5)
    budget.take("a", 5)
    with pytest.raises(RateLimited):
        budget.take("a", 1)
    budget.take("b", 4)
    with pytest.raises(Overloaded) as full:
        budget.take("c", 2)
    assert full.value.retry_after_s
    budget.take("c", 1)
    assert budget.used == 10
    budget.give("a", 3)
    budget.take("a", 3)
    for tenant, size in (("a", 5), ("b", 4), ("c", 1)):
        budget.give(tenant, size)
    assert budget.used == 0 and not budget._of
