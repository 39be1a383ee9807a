"""Answers that were broken off, and their workers' words."""

from __future__ import annotations

from actors.contracts import Usage
from actors.gateway.computed_usage import BOUND, KEEP_S, BrokenOff, ComputedUsage

USAGE = Usage(prompt_tokens=10, completion_tokens=90)
BROKEN = BrokenOff("acme", 300, "n1")


def test_the_workers_word_may_come_after_or_before() -> None:
    table = ComputedUsage()
    assert table.expect("a", BROKEN, 0.0) == 0
    assert table.heard("a", USAGE, "n1", 1.0) == ("acme", 100 - 300)
    assert table.heard("b", USAGE, "n1", 1.0) is None
    assert table.expect("b", BROKEN, 1.0) == 100 - 300
    assert len(table) == 0


def test_only_a_worker_of_its_node_is_believed() -> None:
    table = ComputedUsage()
    table.heard("a", Usage(), "n2", 0.0)
    assert table.expect("a", BROKEN, 0.0) == 0
    assert table.heard("a", Usage(), "n2", 0.0) is None
    assert table.heard("a", Usage(prompt_tokens=-500), "n1", 0.0) == ("acme", -300)


def test_it_is_bounded_and_forgets() -> None:
    table = ComputedUsage()
    for number in range(BOUND + 10):
        table.expect(str(number), BROKEN, 0.0)
        table.heard(f"early {number}", USAGE, "n1", 0.0)
    assert len(table) == 2 * BOUND
    table.sweep(KEEP_S)
    assert len(table) == 0
