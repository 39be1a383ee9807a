"""What isn't a child's fault doesn't wear its supervisor out."""

from __future__ import annotations

import msgspec
from test_supervision_tree import make_ready, short, spec, states, tree, up

from supervision.actions import Emit, EndTree
from supervision.child_transitions import TreeState
from supervision.contracts import ExitNotice, ExitReason
from supervision.errors import DiskFull, Hindered, Unavailable
from supervision.events import ChildRestarting
from supervision.external_cause import PATIENCE, ExternalCause
from supervision.tree import SupervisionTree

FULL = "the disk of /srv is full"
OFTEN = 50  # times within 5 s; the intensity is 3


def failed_start(
    t: SupervisionTree, now: float, excuse: ExternalCause | None
) -> list[ChildRestarting]:
    """`a` is spawned, says that it can't start, and ends; the restarts that come of it."""
    t.tick(now)
    generation = t.children.generation("a")
    t.spawned("a", generation, 1, "n/a/0", now)
    t.start_failed("a", generation, FULL, now, excuse=excuse)
    done = t.exited("a", generation, now)
    return [a.event for a in done if isinstance(a, Emit) and isinstance(a.event, ChildRestarting)]


def test_excused_starts_are_repeated_for_ever() -> None:
    t = tree(spec("a"), spec("b"))
    up(t)
    t.exited("a", 1, 0.0)
    now, delays = 0.0, []
    for _ in range(OFTEN):
        restarting = failed_start(t, now, ExternalCause.DISK_FULL)
        assert [event.excuse for event in restarting] == ["disk_full"]
        delays.append(restarting[0].delay_s)
        now += delays[-1]
    assert t.state is TreeState.RUNNING
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert set(delays[5:]) == {PATIENCE.max_s}
    t.tick(now)
    make_ready(t, now)
    assert states(t, now) == {"a": "running", "b": "running"}


def test_without_an_excuse_the_same_ends_the_supervisor() -> None:
    t = tree(spec("a"))
    up(t)
    t.exited("a", 1, 0.0)
    for _ in range(3):
        failed_start(t, 0.0, None)
        t.tick(t.wakeup(0.0) or 0.0)
    assert t.state is TreeState.STOPPED


def test_excused_exits_leave_the_intensity_to_the_others() -> None:
    t = tree(spec("a"), spec("b"))
    up(t)
    for _ in range(OFTEN):
        generation = t.children.generation("a")
        t.noticed("a", generation, ExitReason.FAILED, FULL, 1.0, excuse=ExternalCause.DISK_FULL)
        t.exited("a", generation, 1.0)
        t.tick(3.0)
        make_ready(t, 1.0)
    for _ in range(3):
        t.exited("b", t.children.generation("b"), 1.0)
        t.tick(3.0)
        make_ready(t, 1.0)
    assert t.state is TreeState.RUNNING
    t.exited("b", t.children.generation("b"), 1.0)
    assert t.state is TreeState.STOPPING


def test_what_its_supervisor_knows_excuses_one_that_could_say_nothing() -> None:
    t = tree(spec("a"))
    up(t)
    t.exited("a", 1, 0.0)
    for _ in range(OFTEN):
        t.tick(t.wakeup(0.0) or 0.0)
        t.exited("a", t.children.generation("a"), 0.0, FULL, excuse=ExternalCause.DISK_FULL)
    assert t.state is TreeState.RUNNING


def test_an_excuse_ends_with_its_generation() -> None:
    t = tree(spec("a"), intensity=0)
    up(t)
    failed = t.children.generation("a")
    t.noticed("a", failed, ExitReason.FAILED, FULL, 1.0, excuse=ExternalCause.DISK_FULL)
    t.exited("a", failed, 1.0)
    make_ready(t, 1.0)
    t.exited("a", t.children.generation("a"), 2.0)
    assert t.state is TreeState.STOPPED


def test_a_supervisor_that_could_not_start_is_excused_as_its_child() -> None:
    t = tree(spec("a"))
    t.begin(0.0)
    t.start_failed("a", 1, FULL, 0.0, excuse=ExternalCause.DISK_FULL)
    last = t.exited("a", 1, 0.0)
    assert last[-1] == EndTree(
        ExitReason.FAILED, (f"top/a could not start: {FULL}",), ExternalCause.DISK_FULL
    )
    assert short(last)[-1] == "finish failed"


def test_only_errors_of_these_codes_excuse() -> None:
    assert ExternalCause.in_error(DiskFull(FULL)) is ExternalCause.DISK_FULL
    assert ExternalCause.in_error(Hindered("it is held")) is ExternalCause.HINDERED
    assert ExternalCause.in_error(Unavailable("away")) is None
    assert ExternalCause.in_error(OSError("away")) is None
    assert ExternalCause.of("") is None
    assert ExternalCause.of("of_a_later_release") is None


def test_a_notice_of_the_release_before_has_no_code() -> None:
    said = msgspec.msgpack.encode(["ExitNotice", "a", 1, "failed"])
    assert msgspec.msgpack.decode(said, type=ExitNotice).code == ""
