"""What was delivered is billed, under kills: the short version of `scripts/prove money`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.money_prove import prove
from tests.support.proving import Report

ORDERS = 160
SEED = 7


@pytest.mark.timeout(600)
async def test_the_ledger_is_the_usage_of_what_was_delivered(
    tmp_path: Path, measured: list[str]
) -> None:
    report = Report("money", {})
    found = await prove(tmp_path, [SEED], ORDERS, report, vectors=False)
    measured += [f"money under kills: {seen}" for seen in report.seen]
    assert found == []
