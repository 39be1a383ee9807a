"""Places in start order, and the roll of who holds them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.living_processes import LivingProcesses
from supervision.orphan_order import has_ended
from supervision.spec import ChildSpec, SupervisorOptions
from supervision.strategy import Strategy
from supervision.tree import SupervisionTree
from supervision.tree_position import END, LEVELS, NUMBERS, ROOT, TreePosition, patience_s

numbers = st.lists(st.integers(0, NUMBERS - 2), max_size=LEVELS).map(tuple)


@given(numbers, numbers)
def test_whoever_starts_later_lies_further_on(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    a, b = TreePosition(one), TreePosition(other)
    below = other[: len(one)] == one  # or the place itself
    above = one[: len(other)] == other
    assert (a.offset == b.offset) == (one == other)
    assert (a.offset < b.offset) == (one < other)
    assert (b.offset >= a.later) == (one < other and not below)
    if above and one != other:
        assert b.offset < a.offset < b.later  # a supervisor is no earlier than all below it


def test_the_root_is_first_and_nobody_comes_after_it() -> None:
    assert (ROOT.offset, ROOT.later) == (0, END)
    assert END < 2**63


def test_what_the_line_has_no_room_for_shares_a_place() -> None:
    deep = tuple(range(LEVELS))
    assert TreePosition((*deep, 7)) != TreePosition(deep)
    assert TreePosition((*deep, 7)).offset == TreePosition(deep).offset
    assert TreePosition((NUMBERS * 2,)).offset == TreePosition((NUMBERS - 2,)).offset
    assert TreePosition((NUMBERS * 2,)).later <= END


def test_a_step_more_is_waited_for_longer() -> None:
    waits = [patience_s(steps) for steps in range(12)]
    assert waits[0] == 0.0
    assert all(later - earlier >= 4.0 for earlier, later in pairwise(waits))


@pytest.mark.parametrize(("together", "expected"), [(False, [0, 1, 2]), (True, [0, 0, 0])])
def test_children_are_numbered_in_start_order(together: bool, expected: list[int]) -> None:
    specs = tuple(ChildSpec(id=id, start="m:C") for id in "abc")
    options = SupervisorOptions(children=specs)
    tree = SupervisionTree(
        "", options.children, strategy=Strategy.ONE_FOR_ONE, intensity=1, period_s=1.0,
        draw=lambda: 0.0, together=together,
    )  # fmt: skip
    assert [tree.number(spec.id) for spec in specs] == expected


HOLD = """
import subprocess, sys
from supervision.living_processes import LivingProcesses
roll = LivingProcesses(sys.argv[1], "n1", "root")
for offset in sys.argv[2:]:
    roll.stand(int(offset))
print("stands", flush=True)
sys.stdin.readline()
for offset in sys.argv[2:]:
    roll.leave(int(offset))
print("left", flush=True)
sys.stdin.readline()
"""


def hold(folder: Path, *offsets: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *map(str, offsets)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "stands\n"
    return process


def test_the_roll_names_who_stands_until_they_leave_or_are_killed(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    roll = LivingProcesses(tmp_path, "n1", "root")
    roll.stand(TreePosition((1,)).offset)  # our own place is no other's
    control, worker = TreePosition((1, 2)).offset, TreePosition((2, 0)).offset
    holders = [hold(tmp_path, ROOT.offset), hold(tmp_path, control), hold(tmp_path, worker)]
    holders.append(hold(tmp_path, worker))
    try:
        root, one, two, three = (holder.pid for holder in holders)
        assert roll.has_root
        standing = roll.standing(0)
        assert set(standing) == {ROOT.offset, control, worker}
        assert standing[control] == one
        assert standing[worker] in (two, three)
        assert set(roll.standing(TreePosition((1, 2)).later)) == {worker}
        another = LivingProcesses(tmp_path, "n1", "another")
        assert another.standing(0) == {}
        another.close()
        assert holders[0].stdin is not None and holders[0].stdout is not None
        holders[0].stdin.write("\n")
        holders[0].stdin.flush()
        assert holders[0].stdout.readline() == "left\n"
        assert not roll.has_root  # though its process lives
        holders[2].kill()
        holders[2].wait()
        assert roll.standing(TreePosition((1, 2)).later) == {worker: three}
        holders[3].kill()
        holders[3].wait()
        assert roll.standing(TreePosition((1, 2)).later) == {}
        assert root
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
        roll.close()
        roll.close()


def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None
        assert not has_ended(os.getpid())
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
        held = [os.dup(child.stdin.fileno()) for _ in range(1100)]  # more than select can look at
        try:
            assert not has_ended(child.pid)
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(child.pid)  # a zombie
    finally:
        child.kill()
        child.communicate()
    assert has_ended(child.pid)
