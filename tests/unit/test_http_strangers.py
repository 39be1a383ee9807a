"""Strangers: counted by network, and sent away in the order of their coming."""

from __future__ import annotations

import pytest

from tether.http.strangers import Counter, Crowd, network_of


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
        ("", ""),
    ],
)
def test_a_network_is_an_address_or_a_64th_part_of_ipv6(host: str, network: str) -> None:
    assert network_of(host) == network


def test_the_first_of_a_network_gives_way_to_its_next() -> None:
    crowd: Crowd[str] = Crowd(in_all=4, per_network=2)
    assert crowd.come("a1", "a") is None
    assert crowd.come("b1", "b") is None
    assert crowd.come("a2", "a") is None
    assert crowd.come("a3", "a") == "a1"
    assert len(crowd) == 3 and "a1" not in crowd and crowd.first() == "b1"
    assert crowd.come("c1", "c") is None
    assert crowd.come("d1", "d") == "b1"  # full: whoever came first of all
    crowd.leave("a2")
    crowd.leave("a2")
    assert crowd.come("a4", "a") is None and len(crowd) == 4


def test_a_crowd_of_nobody_is_empty() -> None:
    crowd: Crowd[str] = Crowd(in_all=2, per_network=2)
    crowd.come("a", "a")
    crowd.leave("a")
    assert crowd.first() is None and len(crowd) == 0


def test_strangers_are_counted_by_network_and_in_all() -> None:
    counter = Counter(in_all=3, per_network=2)
    assert counter.enter("a") and counter.enter("a")
    assert not counter.enter("a")
    assert counter.enter("b")
    assert not counter.enter("c")
    counter.leave("a")
    assert counter.used == 2 and counter.enter("c")
    for network in "abc":
        counter.leave(network)
    assert counter.used == 0
