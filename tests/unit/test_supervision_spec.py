"""Specs and options are validated when made, and survive the wire."""

from __future__ import annotations

import msgspec
import pytest

from supervision.backoff import Backoff
from supervision.intensity import Intensity
from supervision.spec import (
    ChildKind,
    ChildSpec,
    DynamicOptions,
    PartitionOptions,
    Restart,
    Shutdown,
    SupervisorOptions,
)
from supervision.strategy import AutoShutdown, Strategy, affected


def spec(id: str = "a", **changes: object) -> ChildSpec:
    return ChildSpec(**{"id": id, "start": "module.of:It", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "a/b"}, "an id is"),
        ({"id": ""}, "an id is"),
        ({"start": "module.It"}, "module:Class"),
        ({"start": "module:It; import os"}, "module:Class"),
        ({"needs": ("a",)}, "needs must name other"),
        ({"needs": ("b", "b")}, "each once"),
        ({"shutdown": -1.0}, "shutdown must be"),
        ({"shutdown": float("inf")}, "shutdown must be"),
        ({"shutdown": float("nan")}, "shutdown must be"),
        ({"kind": ChildKind.SUPERVISOR}, "shutdown is infinity"),
        ({"start_timeout_s": 0.0}, "start_timeout_s"),
        ({"significant": True}, "permanent one never ends"),
    ],
)
def test_a_wrong_child_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        spec(**changes)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"children": (spec(), spec())}, "two children are called a"),
        ({"children": (spec("a", needs=("b",)), spec("b"))}, "go stale"),
        (
            {
                "strategy": Strategy.REST_FOR_ONE,
                "children": (spec("a", needs=("b",)), spec("b")),
            },
            "isn't before it",
        ),
        (
            {"children": (spec(significant=True, restart=Restart.TRANSIENT),)},
            "auto_shutdown is never",
        ),
        ({"intensity": -1}, "intensity"),
        ({"period_s": 0.0}, "period_s"),
    ],
)
def test_a_wrong_supervisor_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SupervisorOptions(**options)  # type: ignore[arg-type]


def test_a_wrong_dynamic_or_partition_supervisor_is_refused() -> None:
    with pytest.raises(ValueError, match="max_children is 1"):
        DynamicOptions(max_children=1, children=(spec("a"), spec("b")))
    with pytest.raises(ValueError, match="have no order"):
        DynamicOptions(children=(spec("a", needs=("b",)),))
    with pytest.raises(ValueError, match="1 to 1024"):
        PartitionOptions(child=spec(), partitions=0)


def test_options_survive_the_wire_with_children_in_children() -> None:
    inner = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE,
        children=(
            spec("registry", shutdown=Shutdown.BRUTAL_KILL),
            spec("roster", needs=("registry",), backoff=Backoff(initial_s=1, max_s=2)),
        ),
        auto_shutdown=AutoShutdown.NEVER,
    )
    outer = SupervisorOptions(
        children=(
            spec(
                "control",
                kind=ChildKind.SUPERVISOR,
                shutdown=Shutdown.INFINITY,
                args=msgspec.msgpack.encode(inner),
            ),
        )
    )
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(outer), type=SupervisorOptions)
    assert back == outer
    assert msgspec.msgpack.decode(back.children[0].args, type=SupervisorOptions) == inner


def test_what_comes_over_the_wire_is_validated_too() -> None:
    bad = msgspec.msgpack.encode({"children": [{"id": "a/b", "start": "m:C"}]})
    with pytest.raises(msgspec.ValidationError, match="an id is"):
        msgspec.msgpack.decode(bad, type=SupervisorOptions)


def test_partitions_are_numbered() -> None:
    options = PartitionOptions(child=spec("gateway"), partitions=3)
    assert [child.id for child in options.children] == ["0", "1", "2"]


def test_who_is_affected() -> None:
    ids = ("a", "b", "c")
    assert affected(Strategy.ONE_FOR_ONE, ids, "b") == ("b",)
    assert affected(Strategy.REST_FOR_ONE, ids, "b") == ("b", "c")
    assert affected(Strategy.ONE_FOR_ALL, ids, "b") == ids


def test_intensity_counts_a_sliding_window() -> None:
    intensity = Intensity(limit=2, period_s=5.0)
    assert [intensity.admit(t) for t in (0.0, 4.0, 4.5)] == [True, True, False]
    assert intensity.admit(5.1)  # the first one is out of the window, the refused never counted
    assert not intensity.admit(8.9)
    assert not Intensity(limit=0, period_s=1.0).admit(0.0)


def test_backoff_doubles_up_to_its_maximum_and_is_halved_at_most() -> None:
    backoff = Backoff(initial_s=0.2, max_s=1.0)
    top = 1.0 - 2**-53
    assert backoff.delay_s(1, 0.5) == 0.0
    assert [round(backoff.delay_s(n, top), 6) for n in (2, 3, 4, 5, 6)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert [round(backoff.delay_s(n, 0.0), 6) for n in (2, 5)] == [0.1, 0.5]
    assert backoff.delay_s(10_000, 0.0) == 0.5
    with pytest.raises(ValueError, match="below initial_s"):
        Backoff(initial_s=2, max_s=1)


def test_a_supervisor_runs_at_its_own_node() -> None:
    with pytest.raises(ValueError, match="its own node"):
        ChildSpec(
            id="a", start="m:C", kind=ChildKind.SUPERVISOR, shutdown=Shutdown.INFINITY,
            requires={"gpu_class": "a100"},
        )  # fmt: skip
