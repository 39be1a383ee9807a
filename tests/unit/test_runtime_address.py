"""Addresses of actors are their text."""

from __future__ import annotations

import pickle

import pytest
from thespian.actors import ActorAddress

from supervision.runtime import Address


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
