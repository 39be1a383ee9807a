"""The root's table: order, ages, and what goes when a supervisor goes."""

from __future__ import annotations

from supervision.contracts import ChildKind, ChildStatus, TreeNode
from supervision.directory import Directory


def node(path: str, *, pid: int = 1, state: str = "running", since_s: float = 0.0) -> TreeNode:
    return TreeNode(
        path=path, kind=ChildKind.WORKER, state=ChildStatus(state), pid=pid, since_s=since_s
    )


def paths(directory: Directory, now: float = 0.0) -> list[str]:
    return [line.path for line in directory.tree(now).nodes]


def test_parents_stand_before_children_whatever_came_first() -> None:
    directory = Directory()
    for path in ("b", "b/x", "a", "b/x/1", "", "a/y", "b/w"):
        directory.apply(node(path), 0.0)
    assert paths(directory) == ["", "b", "b/x", "b/x/1", "b/w", "a", "a/y"]


def test_a_child_whose_supervisor_is_not_known_yet_is_not_lost() -> None:
    directory = Directory()
    directory.apply(node("a/y/z"), 0.0)
    assert paths(directory) == ["a/y/z"]
    directory.apply(node("a"), 0.0)
    directory.apply(node("a/y"), 0.0)
    assert paths(directory) == ["a", "a/y", "a/y/z"]


def test_a_supervisor_without_a_process_has_no_children() -> None:
    directory = Directory()
    for path in ("a", "a/x", "a/x/1", "ab"):
        directory.apply(node(path), 0.0)
    dropped = directory.apply(node("a", pid=0, state="restarting"), 1.0)
    assert [line.path for line in dropped] == ["a/x", "a/x/1"]
    assert paths(directory) == ["a", "ab"]


def test_a_deleted_line_is_gone_and_ages_go_on_growing() -> None:
    directory = Directory()
    directory.apply(node("a", since_s=2.0), 10.0)
    directory.apply(node("b"), 11.0)
    assert [line.since_s for line in directory.tree(15.0).nodes] == [7.0, 4.0]
    before = directory.version
    directory.apply(node("a", pid=0, state="deleted"), 16.0)
    assert paths(directory) == ["b"]
    assert directory.version > before
    assert directory.get("a") is None


def restarted(path: str, restarts: int) -> TreeNode:
    return TreeNode(
        path=path, kind=ChildKind.WORKER, state=ChildStatus.RUNNING, pid=1, restarts=restarts
    )


def test_restarts_go_on_counting_when_a_supervisor_was_replaced() -> None:
    directory = Directory(max_past=2)
    for path, restarts in (("a", 0), ("a/x", 3), ("a/y", 0), ("a/z", 7)):
        directory.apply(restarted(path, restarts), 0.0)
    directory.apply(node("a", pid=0, state="restarting"), 1.0)
    for path in ("a", "a/x", "a/y", "a/z"):
        directory.apply(restarted(path, 0), 2.0)
    shown = {line.path: line.restarts for line in directory.tree(2.0).nodes}
    assert shown == {"a": 0, "a/x": 4, "a/y": 1, "a/z": 0}  # no room for the third
    directory.apply(restarted("a/x", 1), 3.0)
    row = directory.get("a/x")
    assert row is not None
    assert row.restarts == 5


def test_what_was_deleted_begins_anew() -> None:
    directory = Directory()
    directory.apply(restarted("a", 0), 0.0)
    directory.apply(restarted("a/x", 3), 0.0)
    directory.apply(node("a", pid=0, state="stopped"), 1.0)
    directory.apply(node("a", pid=0, state="deleted"), 1.0)
    for path in ("a", "a/x"):
        directory.apply(restarted(path, 0), 2.0)
    assert [line.restarts for line in directory.tree(2.0).nodes] == [0, 0]
