"""Breakers by target, bounded."""

from __future__ import annotations

import pytest

from supervision.errors import (
    Overloaded,
)
from supervision.policies import (
    Breakers,
    Mode,
)


def test_breakers_are_shared_bounded_and_keep_what_operators_set() -> None:
    breakers: Breakers[str] = Breakers(bound=2)
    breakers.of("a").set(Mode.FORCED_OPEN, 0.0)
    b = breakers.of("b")
    assert breakers.of("b") is b
    breakers.of("c")
    assert "b" not in breakers
    assert breakers.of("a").mode is Mode.FORCED_OPEN
    breakers.of("c").set(Mode.DISABLED, 0.0)
    with pytest.raises(Overloaded):
        breakers.of("d")
    assert len(breakers) == 2
