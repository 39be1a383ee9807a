"""Handlers of an actor class, and their kinds."""

from __future__ import annotations

import pytest

from actors.contracts import Catalog, Fleet, WatchFleet
from supervision.runtime import on
from supervision.runtime.handlers import ASYNC, STREAM, SYNC, handlers_of
from supervision.security.audience import OPERATOR, OWN


class Base:
    @on(Fleet, Catalog)
    def both(self, msg, sender):
        return None

    @on(WatchFleet, of=OPERATOR)
    async def watch(self, msg, sender):
        return None


class Derived(Base):
    @on(WatchFleet)
    async def stream(self, msg, sender):
        yield None


def test_handlers_and_their_kinds():
    base, derived = Base(), Derived()
    assert handlers_of(base) == {
        Fleet: (base.both, SYNC, OWN.mask),
        Catalog: (base.both, SYNC, OWN.mask),
        WatchFleet: (base.watch, ASYNC, (OWN | OPERATOR).mask),
    }
    assert handlers_of(derived)[WatchFleet] == (derived.stream, STREAM, OWN.mask)
    assert handlers_of(derived)[Fleet] == (derived.both, SYNC, OWN.mask)


def test_a_method_can_be_overridden_without_marking_it_again():
    class Plain(Base):
        async def both(self, msg, sender):
            return None

    plain = Plain()
    assert handlers_of(plain)[Fleet] == (plain.both, ASYNC, OWN.mask)


def test_two_methods_for_one_contract_are_refused():
    class Double:
        @on(Fleet)
        def one(self, msg, sender):
            return None

        @on(Fleet)
        def two(self, msg, sender):
            return None

    with pytest.raises(TypeError, match="one and in two"):
        handlers_of(Double())
    with pytest.raises(TypeError):
        on()
