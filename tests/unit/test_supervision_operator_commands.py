"""What an operator's restart does to a tree: in order, with the group, and without counting."""

from __future__ import annotations

import pytest

from supervision.actions import Emit, Kill, Spawn, Start, Stop
from supervision.contracts import ChildStatus
from supervision.errors import Conflict
from supervision.operator_commands import described
from supervision.spec import ChildSpec, Restart
from supervision.strategy import Strategy
from supervision.tree import SupervisionTree


class Bench:
    """A tree whose children do at once what they are told."""

    def __init__(self, strategy: Strategy, intensity: int = 0) -> None:
        self.specs = [ChildSpec(id=id_, start="m:C") for id_ in "abc"]
        self.tree = SupervisionTree(
            "", self.specs, strategy=strategy, intensity=intensity, period_s=5.0, draw=lambda: 0.0
        )
        self.told: list[str] = []
        self.now = 0.0
        self.perform(self.tree.begin(self.now))

    def perform(self, actions: list[object]) -> None:
        for action in actions:
            self.now += 0.001
            match action:
                case Spawn(spec, generation):
                    pid = 100 + generation
                    self.perform(self.tree.spawned(spec.id, generation, pid, "x", self.now))
                case Start(id, generation, _):
                    self.told.append(f"start {id}")
                    self.perform(self.tree.ready(id, generation, 100 + generation, "x", self.now))
                case Stop(id, generation, _, _):
                    self.told.append(f"stop {id}")
                    self.perform(self.tree.exited(id, generation, self.now))
                case Kill(id, _):
                    self.told.append(f"kill {id}")
                case Emit():
                    pass

    def states(self) -> dict[str, ChildStatus]:
        return {node.path: node.state for node in self.tree.children.which(self.now)}


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (Strategy.ONE_FOR_ONE, ["stop b", "start b"]),
        (Strategy.REST_FOR_ONE, ["stop c", "stop b", "start b", "start c"]),
        (Strategy.ONE_FOR_ALL, ["stop c", "stop b", "stop a", "start a", "start b", "start c"]),
    ],
)
def test_a_restart_goes_as_the_strategy_says(strategy: Strategy, told: list[str]) -> None:
    bench = Bench(strategy)
    bench.told.clear()
    for _ in range(5):  # an intensity of 0 would end the tree with the first failure
        bench.perform(bench.tree.renew("b", bench.now))
    assert bench.told == told * 5
    assert set(bench.states().values()) == {ChildStatus.RUNNING}
    node = bench.tree.children.node("b", bench.now)
    assert node is not None
    assert node.restarts == 5


def test_who_was_stopped_is_started_alone() -> None:
    bench = Bench(Strategy.REST_FOR_ONE)
    bench.perform(bench.tree.terminate("b", bench.now))
    assert bench.states() == {
        "a": ChildStatus.RUNNING,
        "b": ChildStatus.STOPPED,
        "c": ChildStatus.RUNNING,
    }
    bench.told.clear()
    bench.perform(bench.tree.renew("b", bench.now))
    assert bench.told == ["start b"]
    assert bench.states()["b"] == ChildStatus.RUNNING


def test_a_restart_waits_for_nobody_who_waits_to_be_tried_again() -> None:
    bench = Bench(Strategy.ONE_FOR_ONE, intensity=9)
    for _ in range(3):
        node = bench.tree.children.node("b", bench.now)
        assert node is not None
        bench.perform(bench.tree.exited("b", node.generation, bench.now))
    assert bench.states()["b"] == ChildStatus.RESTARTING
    bench.perform(bench.tree.renew("b", bench.now))
    assert bench.states()["b"] == ChildStatus.RUNNING


def test_nobody_is_restarted_who_is_not_there_or_goes_anyway() -> None:
    bench = Bench(Strategy.ONE_FOR_ONE)
    with pytest.raises(Conflict, match="no child z"):
        bench.tree.renew("z", bench.now)
    bench.perform(bench.tree.stop(bench.now))
    with pytest.raises(Conflict, match="restarts nobody"):
        bench.tree.renew("a", bench.now)


def test_a_spec_in_words_holds_no_argument() -> None:
    spec = ChildSpec(id="a", start="m:C", args=b"secret", restart=Restart.TRANSIENT, shutdown=2.5)
    told = dict(described(spec))
    assert told["start"] == "m:C"
    assert (told["restart"], told["shutdown"], told["args"]) == ("transient", "2.5 s", "6 bytes")
    assert "secret" not in str(told)
