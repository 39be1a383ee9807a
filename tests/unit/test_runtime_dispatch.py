"""Handlers of an actor class, and their kinds."""

from __future__ import annotations

import pytest

from actors.contracts import Catalog, Fleet, WatchFleet
from supervision.runtime import on
from supervision.runtime.dispatch import ASYNC, STREAM, SYNC, handlers_of


class Base:
    @on(Fleet, Catalog)
    def both(self, msg, sender):
        return None

    @on(WatchFleet)
    async def watch(self, msg, sender):
        return None


class Derived(Base):
    @on(WatchFleet)
    async def stream(self, msg, sender):
        yield None


def test_handlers_and_their_kinds():
    base, derived = Base(), Derived()
    assert handlers_of(base) == {
        Fleet: (base.both, SYNC),
        Catalog: (base.both, SYNC),
        WatchFleet: (base.watch, ASYNC),
    }
    assert handlers_of(derived)[WatchFleet] == (derived.stream, STREAM)
    assert handlers_of(derived)[Fleet] == (derived.both, SYNC)


def test_a_method_can_be_overridden_without_marking_it_again():
    class Plain(Base):
        async def both(self, msg, sender):
            return None

    plain = Plain()
    assert handlers_of(plain)[Fleet] == (plain.both, ASYNC)


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
