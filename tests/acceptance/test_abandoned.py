"""A node that dies whole leaves nothing held: the short version of `scripts/prove abandoned`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.abandoned_prove import prove
from tests.support.proving import Report

ANSWERS = 12


@pytest.mark.timeout(600)
async def test_a_dead_nodes_leases_and_budget_are_free_in_time(
    tmp_path: Path, measured: list[str]
) -> None:
    report = Report("abandoned", {})
    found = await prove(tmp_path, ANSWERS, report, age_s=0.0)
    measured += [f"a dead node's answers: {seen}" for seen in report.seen]
    assert found == []
