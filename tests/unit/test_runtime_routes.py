"""Where other nodes are, and what a node listens at."""

from __future__ import annotations

import pytest

from supervision.runtime.options import NodeOptions
from supervision.runtime.routes import MAX_LEARNED, ListenAddress, Routes


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.0.0.2", ListenAddress("10.0.0.2")),
        ("node-2.example:1900", ListenAddress("node-2.example", 1900, 1900)),
        ("10.0.0.2:7000-7999", ListenAddress("10.0.0.2", 7000, 7999)),
        ("::1", ListenAddress("::1")),
        ("[::1]", ListenAddress("::1")),
        ("[::1]:1900", ListenAddress("::1", 1900, 1900)),
    ],
)
def test_a_place_is_read(text: str, place: ListenAddress):
    assert ListenAddress.parse(text) == place


@pytest.mark.parametrize("text", ["", ":1900", "h:x", "h:2-1", "h:70000", "h:1-2-3"])
def test_what_is_no_place(text: str):
    with pytest.raises(ValueError):
        ListenAddress.parse(text)


def test_what_was_told_comes_before_what_was_learned():
    routes = Routes({"n2": "10.0.0.2:1900"})
    routes.learn("n2", "6.6.6.6")
    routes.learn("n3", "10.0.0.3")
    assert [routes.host(node) for node in ("n2", "n3")] == ["10.0.0.2", "10.0.0.3"]
    assert routes.node_at("10.0.0.2", 1900) == "n2"
    assert routes.node_at("10.0.0.2", 1901) is None
    routes.tell("n3", "10.0.1.3")
    assert routes.host("n3") == "10.0.1.3"
    routes.tell("n3", None)
    with pytest.raises(ValueError, match="n3"):
        routes.host("n3")


def test_what_is_learned_is_bounded():
    routes = Routes()
    for number in range(MAX_LEARNED + 1):
        routes.learn(f"n{number}", "10.0.0.1")
    with pytest.raises(ValueError):
        routes.host("n0")
    assert routes.host(f"n{MAX_LEARNED}") == "10.0.0.1"


def test_options_of_a_node_among_others():
    options = NodeOptions.of(
        {
            "Node Id": "n1",
            "Tls Identity Dir": "/etc/tether/n1",
            "Listen": "10.0.0.1:7000-7999",
            "Routes": {"n2": "10.0.0.2:1900"},
        }
    )
    assert options.identity_dir == "/etc/tether/n1"
    assert dict(options.routes) == {"n2": "10.0.0.2:1900"}
    for wrong in (
        {"Listen": "10.0.0.1"},  # nobody is let in without a certificate
        {"Tls Identity Dir": "/x", "Listen": "h:9-1"},
        {"Tls Identity Dir": "/x", "Listen": "h:1900-1999"},  # the Admin's own port
        {"Routes": {"n2": "h:x"}},
    ):
        with pytest.raises(ValueError):
            NodeOptions.of(wrong)
