"""Which control node is asked first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import ControlNode, ControlPlane
from actors.core.control_preference import HOLD_S, HeldAddresses, candidates

PATH = "control/reservation"


def node(name: str, region: str = "eu", **more: bool) -> ControlNode:
    return ControlNode(node=name, region=region, addresses={PATH: f"{name}/1/1"}, **more)


def order(*nodes: ControlNode, own: str | None = None, **more: str | frozenset[str]) -> list[str]:
    found = candidates(PATH, own, ControlPlane(nodes=nodes), region="eu", **more)  # type: ignore[arg-type]
    return [address.partition("/")[0] for address in found]


def test_the_own_one_then_the_one_that_knows_then_the_region_then_the_rest() -> None:
    some = (node("far", "us"), node("a"), node("b"), node("late", suspect=True))
    assert order(*some) == ["a", "b", "far", "late"]
    assert order(*some, own="me/1/1") == ["me", "a", "b", "far", "late"]
    assert order(*some, near="far") == ["far", "a", "b", "late"]
    assert order(*some, near="late") == ["a", "b", "far", "late"]
    assert order(node("a", draining=True), node("b")) == ["b", "a"]


def test_what_has_failed_is_last_and_never_left_out() -> None:
    held = frozenset(("me/1/1", "a/1/1"))
    assert order(node("a"), node("b", "us"), own="me/1/1", held=held) == ["b", "me", "a"]
    assert order(own="me/1/1", held=held) == ["me"]


def test_a_node_without_that_actor_is_no_candidate() -> None:
    other = ControlNode(node="x", region="eu", addresses={"control/registry": "x/1/1"})
    assert order(other, node("b")) == ["b"]
    assert order() == []


def test_what_has_failed_is_forgotten() -> None:
    held = HeldAddresses()
    held.failed("a", 10.0)
    assert held.now(10.0 + HOLD_S - 0.1) == {"a"}
    assert not held.now(10.0 + HOLD_S)
    held.failed("b", 100.0)
    assert len(held._until) == 1


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True))
def test_a_key_moves_only_when_its_node_is_lost(keys: list[str]) -> None:
    nodes = [node(name) for name in ("a", "b", "c")]
    for key in keys:
        first, second, _ = order(*nodes, key=key)
        left = [n for n in nodes if n.node != first]
        assert order(*left, key=key)[0] == second
        assert order(*reversed(nodes), key=key)[0] == first


def test_keys_are_spread() -> None:
    nodes = [node(name) for name in ("a", "b", "c")]
    firsts = [order(*nodes, key=f"tenant-{n}")[0] for n in range(300)]
    assert all(60 < firsts.count(name) < 140 for name in ("a", "b", "c"))
