"""Addresses, options of a node, and which method answers what."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from thespian.actors import ActorAddress

from actors.contracts import Catalog, Fleet, WatchFleet
from supervision.runtime import Address, on
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.dispatch import ASYNC, STREAM, SYNC, handlers_of
from supervision.runtime.options import NodeOptions
from supervision.runtime.sockets import socket_path


def test_an_address_is_its_text():
    address = Address("n1", "123-ab", 7)
    assert str(address) == "n1/123-ab/7"
    assert Address.parse("n1/123-ab/7") == address
    assert Address.parse("n1/123-ab/7") is Address.parse("n1/123-ab/7")
    assert hash(Address.parse("n1/123-ab/7")) == hash(address)
    assert address != Address("n1", "123-ab", 8)
    assert address != "n1/123-ab/7"
    assert pickle.loads(pickle.dumps(address)) == address
    assert ActorAddress(address) == ActorAddress(Address("n1", "123-ab", 7))
    assert address.pid == 123
    assert Address.admin("n1", 1900).pid == 0
    with pytest.raises(AttributeError):
        address.node = "n2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "n1",
        "n1/a",
        "n1/a/b",
        "n1/a/70000",
        "/a/0",
        "n1//0",
        "../a/0",
        "n1/../0",
        "n1/a b/0",
        "n1/a/0/0",
        "n1/a\n/0",
        "n/a/-1",
        "n" * 65 + "/a/0",
        "n1/a/٣",
    ],
)
def test_what_is_no_address(text: str):
    with pytest.raises(ValueError, match="address"):
        Address.parse(text)


def test_the_cache_of_addresses_is_bounded():
    from supervision.runtime import address

    for number in range(10_000):
        Address.parse(f"n1/{number}-x/0")
    assert len(address._parsed) <= 4096


def test_a_socket_path_that_is_too_long_says_so():
    address = Address("n1", "123-abcdef01")
    assert socket_path("/run/tether", address) == "/run/tether/n1/123-abcdef01"
    with pytest.raises(ValueError, match="shorter run directory"):
        socket_path("/x" * 60, address)


def test_options_of_a_node():
    options = NodeOptions.of({"Node Id": "n1", "Run Dir": "/run/t", "Admin Port": 1234})
    assert options.admin == Address("n1", "admin", 1234)
    assert not options.allow_pickle
    assert not options.allows("a.B")
    assert NodeOptions.of({"Admin Port": 7, "Run Dir": "/r"}).admin.node == "127.0.0.1:7"


@pytest.mark.parametrize(
    ("entry", "name", "allowed"),
    [
        ("a.b:C", "a.b.C", True),
        ("a.b:C", "a.b.D", False),
        ("a.b:C", "a.b.CC", False),
        ("a.b:C", "x.a.b.C", False),
        ("a.b.*", "a.b.C", True),
        ("a.b.*", "a.b.c.D", True),
        ("a.b.*", "a.bc.D", False),
        ("a.b.*", "a.b", False),
        ("a.b.*", "xa.b.C", False),
    ],
)
def test_the_list_of_actor_classes(entry: str, name: str, allowed: bool):
    options = NodeOptions.of({"Run Dir": "/r", "Actor Classes": [entry]})
    assert options.allows(name) is allowed


@pytest.mark.parametrize(
    "capabilities",
    [
        {"Actor Classes": ["a.b"]},
        {"Actor Classes": ["a:b:c"]},
        {"Max Frame": 10},
        {"Node Id": "a/b"},
        {"Admin Port": 99999},
        {"Admin Port": "x"},
    ],
)
def test_options_without_sense(capabilities: dict[str, object]):
    with pytest.raises(ValueError):
        NodeOptions.of({"Run Dir": "/r", **capabilities})


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


@pytest.mark.parametrize("cause", CancelCause)
def test_a_cancellation_says_its_cause(cause: CancelCause):
    assert CancelCause.of(asyncio.CancelledError(cause)) is cause
    assert CancelCause.of(asyncio.CancelledError(str(cause))) is cause


@pytest.mark.parametrize("said", [(), ("stalled",), (7,), ([],)])
def test_a_cancellation_that_says_nothing_of_it_comes_from_within(said: tuple[object, ...]):
    assert CancelCause.of(asyncio.CancelledError(*said)) is CancelCause.CANCELLED
