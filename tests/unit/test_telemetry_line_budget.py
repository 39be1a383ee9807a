"""Lines about what others repeat at will: how many there are."""

from __future__ import annotations

from supervision.telemetry.line_budget import LineBudget


def test_a_kind_has_a_line_in_its_time_which_says_what_went_unsaid():
    lines = LineBudget(10.0, 100)
    assert [lines.take("a", t) for t in (0.0, 0.0, 1.0, 9.9)] == [0, None, None, None]
    assert lines.take("b", 1.0) == 0
    assert lines.take("a", 10.0) == 3
    assert lines.take("a", 20.0) == 0


def test_all_kinds_together_have_so_many():
    lines = LineBudget(10.0, 3)
    said = [lines.take(n, float(n) / 1000) for n in range(5000)]
    assert [n for n, unsaid in enumerate(said) if unsaid is not None] == [0, 1, 2]
    assert lines.take(4, 10.0) == 1
    assert len(lines._said) <= 1024
    assert len(lines._unsaid) <= 1024
