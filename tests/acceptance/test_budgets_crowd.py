"""A budget that many share is exact under kills: the short version of `scripts/prove budgets`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.budgets_prove import prove
from tests.support.proving import Report

SECONDS, EVERY_S, NODES = 5.0, 0.3, ("n1", "n2")


@pytest.mark.timeout(600)
async def test_a_budget_is_never_overrun_and_refuses_nobody_who_fits(
    tmp_path: Path, measured: list[str]
) -> None:
    report = Report("budgets", {})
    found = await prove(tmp_path, SECONDS, report, nodes=NODES, every_s=EVERY_S)
    measured += [f"budgets under kills: {seen}" for seen in report.seen]
    assert found == []
