"""The decisions of a supervisor, one situation at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from supervision.actions import Action, Emit, EndTree, Kill, Serve, Spawn, Start, Stop
from supervision.backoff import Backoff
from supervision.child_transitions import TreeState
from supervision.contracts import ChildKind, ChildStatus, ExitReason
from supervision.errors import Conflict, Overloaded
from supervision.spec import ChildSpec, Restart, Shutdown
from supervision.strategy import AutoShutdown, Strategy
from supervision.tree import SupervisionTree


def spec(id: str, **changes: object) -> ChildSpec:
    return ChildSpec(**{"id": id, "start": "m:C", **changes})  # type: ignore[arg-type]


def tree(*specs: ChildSpec, **changes: object) -> SupervisionTree:
    options: dict[str, object] = {
        "strategy": Strategy.ONE_FOR_ONE,
        "intensity": 3,
        "period_s": 5.0,
        "draw": lambda: 1.0,
    }
    return SupervisionTree("top", specs, **(options | changes))  # type: ignore[arg-type]


def short(actions: list[Action]) -> list[str]:
    """The actions as words: 'spawn a', 'stop b', 'exited:vanished a' …; changes left out."""
    words = []
    for action in actions:
        match action:
            case Spawn(child, _):
                words.append(f"spawn {child.id}")
            case Start(id, _, _) | Stop(id, _, _, _) | Kill(id, _):
                words.append(f"{type(action).__name__.lower()} {id}")
            case Serve():
                words.append("serve")
            case EndTree(reason, _, _):
                words.append(f"finish {reason}")
            case Emit(event) if event.name == "child.exited":
                words.append(f"exited:{event.reason} {event.path.removeprefix('top/')}")  # type: ignore[attr-defined]
            case Emit(event) if event.name != "tree.changed":
                words.append(f"{event.name} {event.path.removeprefix('top/')}")
    return words


def up(t: SupervisionTree, now: float = 0.0) -> None:
    """Start it and make every child ready."""
    t.begin(now)
    make_ready(t, now)


def make_ready(t: SupervisionTree, now: float) -> list[str]:
    """Answer every start with ready until there is none; the ids in the order of readiness."""
    order: list[str] = []
    progress = True
    while progress:
        progress = False
        for node in t.children.which(now):
            id = node.path.removeprefix("top/")
            if any(
                isinstance(a, Emit) and a.event.name == "child.started"
                for a in t.ready(id, node.generation, 100, f"n/{id}/0", now)
            ):
                order.append(id)
                progress = True
    return order


def gone(t: SupervisionTree, id: str, now: float) -> list[str]:
    return short(t.exited(id, t.children.generation(id), now))


def states(t: SupervisionTree, now: float = 0.0) -> dict[str, ChildStatus]:
    return {n.path.removeprefix("top/"): n.state for n in t.children.which(now)}


def test_children_are_spawned_together_and_started_in_order() -> None:
    t = tree(spec("a"), spec("b"), spec("c"))
    assert short(t.begin(0)) == ["spawn a", "spawn b", "spawn c", "start a"]
    assert short(t.ready("a", 1, 11, "n/a/0", 0.5)) == ["child.started a", "start b"]
    assert short(t.ready("b", 2, 12, "n/b/0", 0.6)) == ["child.started b", "start c"]
    assert short(t.ready("c", 3, 13, "n/c/0", 0.7)) == ["child.started c", "serve"]
    assert states(t) == {
        "a": ChildStatus.RUNNING,
        "b": ChildStatus.RUNNING,
        "c": ChildStatus.RUNNING,
    }


def test_a_supervisor_without_children_serves_at_once() -> None:
    assert short(tree().begin(0)) == ["serve"]


def test_needs_are_handed_over_as_addresses() -> None:
    t = tree(spec("a"), spec("b", needs=("a",)), strategy=Strategy.REST_FOR_ONE)
    t.begin(0)
    start = next(a for a in t.ready("a", 1, 11, "n/a/0", 0) if isinstance(a, Start))
    assert start == Start("b", 2, (("a", "n/a/0"),))


def test_a_failed_first_start_undoes_what_was_started_in_reverse() -> None:
    t = tree(spec("a"), spec("b"), spec("c"), spec("d"))
    t.begin(0)
    t.ready("a", 1, 11, "n/a/0", 0)
    t.ready("b", 2, 12, "n/b/0", 0)
    t.start_failed("c", 3, "no model folder", 0)
    words = gone(t, "c", 0)
    assert words[:2] == ["exited:start_failed c", "tree.stopping top"]
    assert "kill d" in words  # was spawned ahead, never started
    assert gone(t, "d", 0) == ["exited:killed d", "stop b"]
    assert gone(t, "b", 0) == ["exited:shutdown b", "stop a"]
    last = t.exited("a", 1, 0)
    assert short(last)[-2:] == ["tree.escalated top", "finish failed"]
    assert last[-1] == EndTree(ExitReason.FAILED, ("top/c could not start: no model folder",))


def test_one_for_one_restarts_that_child_alone_and_at_once() -> None:
    t = tree(spec("a"), spec("b"), spec("c"))
    up(t)
    assert gone(t, "b", 1) == ["exited:vanished b", "child.restarting b", "spawn b", "start b"]
    assert states(t) == {
        "a": ChildStatus.RUNNING,
        "b": ChildStatus.RESTARTING,
        "c": ChildStatus.RUNNING,
    }
    assert make_ready(t, 1.4) == ["b"]


def test_rest_for_one_stops_successors_in_reverse_and_starts_in_order() -> None:
    t = tree(spec("a"), spec("b"), spec("c"), spec("d"), strategy=Strategy.REST_FOR_ONE)
    up(t)
    assert gone(t, "b", 1) == [
        "exited:vanished b",
        "child.restarting b",
        "stop d",
        "spawn b",  # ahead of its turn: nothing starts while something has to stop
    ]
    assert gone(t, "d", 1) == ["exited:shutdown d", "stop c"]
    assert gone(t, "c", 1) == ["exited:shutdown c", "spawn c", "spawn d", "start b"]
    assert make_ready(t, 1.5) == ["b", "c", "d"]
    assert states(t)["a"] == ChildStatus.RUNNING


def test_one_for_all_restarts_everything() -> None:
    t = tree(spec("a"), spec("b"), spec("c"), strategy=Strategy.ONE_FOR_ALL)
    up(t)
    gone(t, "b", 1)
    assert gone(t, "c", 1) == ["exited:shutdown c", "stop a"]
    gone(t, "a", 1)
    assert make_ready(t, 1) == ["a", "b", "c"]


def test_two_deaths_of_a_group_at_once_count_once() -> None:
    t = tree(spec("a"), spec("b"), strategy=Strategy.REST_FOR_ONE, intensity=1)
    up(t)
    gone(t, "a", 1)
    assert gone(t, "b", 1) == ["exited:shutdown b", "spawn b", "start a"]
    assert t.state is TreeState.RUNNING


def test_a_successor_that_only_waits_for_its_turn_needn_t_be_stopped() -> None:
    t = tree(spec("a"), spec("b"), strategy=Strategy.REST_FOR_ONE)
    up(t)
    gone(t, "a", 1)
    gone(t, "b", 1)
    t.start_failed("a", t.children.generation("a"), "again", 1.1)
    words = gone(t, "a", 1.1)
    assert words == ["exited:start_failed a", "child.restarting a"]  # b keeps its process
    assert short(t.tick(1.4)) == ["spawn a", "start a"]
    assert make_ready(t, 1.5) == ["a", "b"]


def test_reaching_the_intensity_stops_the_rest_and_escalates_with_causes() -> None:
    t = tree(spec("a"), spec("b"), intensity=1, period_s=5.0)
    up(t)
    gone(t, "b", 1)
    make_ready(t, 1.5)
    t.noticed("b", t.children.generation("b"), ExitReason.FAILED, "disk full", 2)
    words = gone(t, "b", 2)
    assert words == ["exited:failed b", "child.gave_up b", "tree.stopping top", "stop a"]
    last = t.exited("a", 1, 2.1)
    assert last[-1] == EndTree(
        ExitReason.FAILED,
        ("top/b had to be restarted more than 1 times in 5 s, last because of failed", "disk full"),
    )


def test_deaths_further_apart_than_the_period_are_forgiven() -> None:
    t = tree(spec("a"), intensity=1, period_s=5.0)
    up(t)
    for now in (1.0, 7.0, 13.0):
        gone(t, "a", now)
        make_ready(t, now)
    assert t.state is TreeState.RUNNING


def test_repeated_failures_wait_and_a_steady_run_resets() -> None:
    backoff = Backoff(initial_s=1.0, max_s=4.0, steady_s=10.0)
    t = tree(spec("a", backoff=backoff), intensity=99)
    up(t)
    assert "spawn a" in gone(t, "a", 1)  # the first restart is immediate
    make_ready(t, 1)
    assert "spawn a" not in gone(t, "a", 2)
    assert t.wakeup(2) == 3.0
    assert short(t.tick(2.9)) == []
    assert short(t.tick(3.0)) == ["spawn a", "start a"]
    make_ready(t, 3)
    assert "spawn a" in gone(t, "a", 13.0)  # it had run for ten seconds


def test_failed_restarts_count() -> None:
    t = tree(spec("a"), intensity=2, period_s=60)
    up(t)
    gone(t, "a", 1)
    for now in (2.0, 3.0):
        t.start_failed("a", t.children.generation("a"), "port taken", now)
        words = gone(t, "a", now)
        t.tick(now + 0.5)
    assert "child.gave_up a" in words
    assert words[-1] == "finish failed"


def test_a_start_that_takes_too_long_is_killed() -> None:
    t = tree(spec("a", start_timeout_s=10), intensity=3)
    t.begin(0)
    assert t.wakeup(0) == 10
    assert short(t.tick(10)) == ["kill a", "child.killed a"]
    assert gone(t, "a", 10)[0] == "exited:start_failed a"


def test_a_child_that_cannot_start_and_does_not_end_is_killed() -> None:
    t = tree(spec("a"), spec("b"))
    up(t)
    gone(t, "b", 1)
    t.start_failed("b", t.children.generation("b"), "no", 1.5)
    assert t.wakeup(1.5) == 2.5
    assert short(t.tick(2.5)) == ["kill b", "child.killed b"]


def test_whoever_outlives_its_shutdown_is_killed_again_and_again() -> None:
    t = tree(spec("a", shutdown=2.0))
    up(t)
    stop = t.stop(1)
    assert short(stop) == ["tree.stopping top", "stop a"]
    assert next(a for a in stop if isinstance(a, Stop)).deadline_s == pytest.approx(1.8)
    assert short(t.tick(2.9)) == []
    assert short(t.tick(3.0)) == ["kill a", "child.killed a"]
    assert short(t.tick(4.0)) == ["kill a"]
    assert gone(t, "a", 4.1) == ["exited:killed a", "tree.stopped top", "finish shutdown"]


def test_brutal_kill_asks_nobody_and_a_supervisor_has_all_time() -> None:
    t = tree(
        spec("a", kind=ChildKind.SUPERVISOR, shutdown=Shutdown.INFINITY),
        spec("b", shutdown=Shutdown.BRUTAL_KILL),
    )
    up(t)
    assert short(t.stop(1)) == ["tree.stopping top", "kill b", "child.killed b"]
    assert gone(t, "b", 1) == ["exited:killed b", "stop a"]
    assert t.wakeup(1) is None


def test_stop_while_starting_goes_back_in_reverse() -> None:
    t = tree(spec("a"), spec("b"), spec("c"))
    t.begin(0)
    t.ready("a", 1, 1, "n/a/0", 0)
    assert short(t.stop(0)) == ["tree.stopping top", "kill c", "child.killed c"]
    assert gone(t, "c", 0) == ["exited:killed c", "stop b"]
    assert gone(t, "b", 0) == ["exited:shutdown b", "stop a"]
    assert gone(t, "a", 0)[-1] == "finish shutdown"


def test_transient_and_temporary() -> None:
    t = tree(
        spec("a", restart=Restart.TRANSIENT),
        spec("b", restart=Restart.TEMPORARY),
        spec("c", restart=Restart.TRANSIENT),
    )
    up(t)
    t.noticed("a", 1, ExitReason.NORMAL, "", 1)
    assert gone(t, "a", 1) == ["exited:normal a"]
    assert gone(t, "b", 1) == ["exited:vanished b"]
    assert "spawn c" in gone(t, "c", 1)
    assert states(t) == {"a": ChildStatus.STOPPED, "c": ChildStatus.RESTARTING}


@pytest.mark.parametrize(
    ("auto", "ends_with_first"),
    [(AutoShutdown.ANY_SIGNIFICANT, True), (AutoShutdown.ALL_SIGNIFICANT, False)],
)
def test_significant_children_end_their_supervisor(
    auto: AutoShutdown, ends_with_first: bool
) -> None:
    t = tree(
        spec("a"),
        spec("b", restart=Restart.TRANSIENT, significant=True),
        spec("c", restart=Restart.TEMPORARY, significant=True),
        auto_shutdown=auto,
    )
    up(t)
    t.noticed("b", 2, ExitReason.NORMAL, "", 1)
    gone(t, "b", 1)
    assert (t.state is TreeState.STOPPING) is ends_with_first
    gone(t, "c", 2)
    assert t.state is TreeState.STOPPING
    assert gone(t, "a", 3)[-1] == "finish shutdown"


def test_verbs_of_a_dynamic_supervisor() -> None:
    t = tree(together=True, eager=True, max_children=2)
    assert short(t.begin(0)) == ["serve"]
    assert short(t.add(spec("x"), 0)) == ["spawn x", "start x"]
    with pytest.raises(Conflict, match="already has a child x"):
        t.add(spec("x"), 0)
    t.add(spec("y"), 0)
    with pytest.raises(Overloaded, match="as many as it may"):
        t.add(spec("z"), 0)
    t.start_failed("y", t.children.generation("y"), "no such model", 1)
    assert gone(t, "y", 1) == ["exited:start_failed y"]  # its first start: told, not repeated
    assert states(t) == {"x": ChildStatus.STARTING}
    make_ready(t, 1)
    assert short(t.terminate("x", 2)) == ["stop x"]
    assert gone(t, "x", 2) == ["exited:shutdown x"]
    assert states(t) == {"x": ChildStatus.STOPPED}
    assert short(t.restart("x", 3)) == ["spawn x", "start x"]
    with pytest.raises(Conflict, match="terminate it first"):
        t.delete("x", 3)
    t.terminate("x", 3, forget=True)
    gone(t, "x", 3)
    assert states(t) == {}
    with pytest.raises(Conflict, match="no child x"):
        t.terminate("x", 3)


def test_dynamic_children_stop_together() -> None:
    t = tree(spec("x"), spec("y"), together=True, eager=True)
    assert short(t.begin(0)) == ["spawn x", "spawn y", "start x", "start y", "serve"]
    make_ready(t, 1)
    assert short(t.stop(2)) == ["tree.stopping top", "stop x", "stop y"]


def test_terminating_a_child_that_waits_needs_no_process() -> None:
    t = tree(spec("a"), spec("b"), intensity=9)
    up(t)
    gone(t, "b", 1)
    make_ready(t, 1)
    gone(t, "b", 1.1)
    assert states(t)["b"] == ChildStatus.RESTARTING
    assert short(t.terminate("b", 1.2)) == []
    assert states(t)["b"] == ChildStatus.STOPPED
    assert t.wakeup(1.2) is None


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_nobody_of_a_group_starts_while_one_of_it_is_killed(strategy: Strategy) -> None:
    """Found by hypothesis: its end takes those with it that would just have begun."""
    t = tree(spec("a"), spec("b"), spec("c"), strategy=strategy, intensity=0)
    up(t)
    t.terminate("a", 1)
    gone(t, "a", 1)
    assert short(t.doomed("b", 2, "hung", 2)) == ["kill b", "child.killed b"]
    assert short(t.restart("a", 3)) == ["spawn a"]
    assert gone(t, "b", 3)[0] == "exited:killed b"
    assert t.state is TreeState.STOPPING


def test_who_waited_for_a_kill_starts_with_its_group() -> None:
    t = tree(spec("a"), spec("b"), strategy=Strategy.ONE_FOR_ALL)
    up(t)
    t.terminate("a", 1)
    gone(t, "a", 1)
    t.doomed("b", 2, "hung", 2)
    t.restart("a", 3)
    words = gone(t, "b", 4)
    assert words == ["exited:killed b", "child.restarting b", "spawn b", "start a"]
    assert make_ready(t, 4) == ["a", "b"]


def test_a_child_that_is_stopped_for_good_holds_nobody_up() -> None:
    t = tree(spec("a"), spec("b"), strategy=Strategy.ONE_FOR_ALL)
    up(t)
    t.terminate("a", 1)
    gone(t, "a", 1)
    t.terminate("b", 2)
    assert short(t.restart("a", 3)) == ["spawn a", "start a"]


def test_terminating_a_condemned_child_does_not_block_its_group() -> None:
    t = tree(spec("a"), spec("b"), spec("c"), strategy=Strategy.REST_FOR_ONE)
    up(t)
    gone(t, "a", 1)
    t.terminate("b", 1)
    gone(t, "b", 1)
    gone(t, "c", 1)
    assert make_ready(t, 2) == ["a", "c"]
    assert states(t)["b"] == ChildStatus.STOPPED


def test_a_temporary_child_goes_down_with_its_group_and_is_forgotten() -> None:
    t = tree(spec("a"), spec("b", restart=Restart.TEMPORARY), strategy=Strategy.ONE_FOR_ALL)
    up(t)
    gone(t, "a", 1)
    assert gone(t, "b", 1) == ["exited:shutdown b", "start a"]
    assert states(t) == {"a": ChildStatus.RESTARTING}


def test_a_terminated_child_stays_down_when_its_group_restarts() -> None:
    t = tree(spec("a"), spec("b"), strategy=Strategy.REST_FOR_ONE)
    up(t)
    t.terminate("b", 1)
    gone(t, "a", 1)
    assert gone(t, "b", 1) == ["exited:shutdown b"]
    assert states(t) == {"a": ChildStatus.RESTARTING, "b": ChildStatus.STOPPED}


def test_a_second_stop_and_an_old_generation_change_nothing() -> None:
    t = tree(spec("a"))
    up(t)
    gone(t, "a", 1)
    make_ready(t, 1)
    assert short(t.exited("a", 1, 1)) == []
    assert short(t.stop(2)) == ["tree.stopping top", "stop a"]
    assert short(t.stop(2)) == []


def test_who_says_that_it_ends_is_no_longer_shown_as_running_and_must_end() -> None:
    t = tree(spec("a", shutdown=2.0))
    up(t)
    t.noticed("a", 1, ExitReason.FAILED, "disk full", 1)
    assert states(t) == {"a": ChildStatus.STOPPING}
    assert short(t.tick(3)) == ["kill a", "child.killed a"]
    assert gone(t, "a", 3)[:2] == ["exited:failed a", "child.restarting a"]


def test_a_child_that_hangs_is_killed_and_comes_back() -> None:
    t = tree(spec("a"), spec("b"))
    up(t)
    assert (
        short(t.doomed("b", 2, "hung: silent for 15 s", 10)) == ["child.killed b", "kill b"][::-1]
    )
    assert t.doomed("b", 2, "hung again", 10) == []
    assert t.doomed("b", 1, "of another generation", 10) == []
    words = gone(t, "b", 10)
    assert words == ["exited:killed b", "child.restarting b", "spawn b", "start b"]
    node = t.children.node("b", 10)
    assert node is not None
    assert node.last_exit == "killed: hung: silent for 15 s"


def test_one_that_hangs_is_killed_again_if_that_was_not_seen_to_work() -> None:
    t = tree(spec("a", shutdown=60.0))
    up(t)
    t.doomed("a", 1, "hung", 10)
    assert t.wakeup(10) == 11
    assert short(t.tick(11)) == ["kill a"]


def test_the_errors_of_verbs_are_those_of_otp() -> None:
    def param(verb: Callable[[], object]) -> str | None:
        with pytest.raises(Conflict) as caught:
            verb()
        return caught.value.param

    t = tree(spec("a"), spec("b"))
    up(t)
    assert param(lambda: t.add(spec("a"), 1)) == "already_started"
    assert param(lambda: t.restart("a", 1)) == "running"
    assert param(lambda: t.delete("a", 1)) == "running"
    for verb in (t.restart, t.delete, t.terminate):
        assert param(lambda verb=verb: verb("x", 1)) == "not_found"
    t.terminate("a", 1)
    gone(t, "a", 1)
    assert param(lambda: t.add(spec("a"), 1)) == "already_present"
    gone(t, "b", 1)
    assert param(lambda: t.restart("b", 1)) == "restarting"
    assert param(lambda: t.delete("b", 1)) == "restarting"
    t.delete("a", 1)
    assert param(lambda: t.restart("a", 1)) == "not_found"


def test_a_restart_that_was_asked_for_and_fails_is_not_repeated() -> None:
    t = tree(spec("a"))
    up(t)
    t.terminate("a", 1)
    gone(t, "a", 1)
    assert short(t.restart("a", 2)) == ["spawn a", "start a"]
    t.start_failed("a", 2, "no room", 3)
    assert gone(t, "a", 3) == ["exited:start_failed a"]
    assert states(t) == {"a": ChildStatus.STOPPED}
    t.restart("a", 4)
    make_ready(t, 4)
    assert "spawn a" in gone(t, "a", 5)  # now it is a child like any other


def test_a_supervisor_that_hangs_while_it_stops_is_killed() -> None:
    t = tree(spec("a"), spec("s", kind=ChildKind.SUPERVISOR, shutdown=Shutdown.INFINITY))
    up(t)
    assert short(t.stop(10))[-1] == "stop s"
    assert t.doomed("a", 1, "hung", 10) != []  # it doesn't wait for its turn
    assert short(t.doomed("s", 2, "hung", 11)) == ["kill s", "child.killed s"]
