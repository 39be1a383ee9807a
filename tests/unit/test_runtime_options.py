"""Options of a node, and the actor classes it allows."""

from __future__ import annotations

import pytest

from supervision.runtime import Address
from supervision.runtime.options import NodeOptions


def test_options_of_a_node():
    options = NodeOptions.of({"Node Id": "n1", "Run Dir": "/run/t", "Admin Port": 1234})
    assert options.admin == Address("n1", "admin", 1234)
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


def test_what_another_node_may_have_started():
    told = {"Run Dir": "/r", "Node Id": "n1", "Actor Classes": ["a:B", "a:C"]}
    options = NodeOptions.of(told)
    assert options.allows("a.B", "n2"), "all of them, where nothing is said"
    options = NodeOptions.of({**told, "Placed Classes": ["a:B", "a:D"]})
    assert options.allows("a.B", "n2")
    assert not options.allows("a.C", "n2")
    assert options.allows("a.C", "n1")
    assert options.allows("a.C")
    assert not options.allows("a.D", "n2"), "it is on one list only"
    assert not NodeOptions.of({**told, "Placed Classes": []}).allows("a.B", "n2")


@pytest.mark.parametrize(
    "capabilities",
    [
        {"Actor Classes": ["a.b"]},
        {"Actor Classes": ["a:b:c"]},
        {"Placed Classes": ["a"]},
        {"Max Frame": 10},
        {"Node Id": "a/b"},
        {"Admin Port": 99999},
        {"Admin Port": "x"},
    ],
)
def test_options_without_sense(capabilities: dict[str, object]):
    with pytest.raises(ValueError):
        NodeOptions.of({"Run Dir": "/r", **capabilities})
