"""A store is away, and the node dies meanwhile: the short version of `scripts/prove outages`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.outages_prove import prove
from tests.support.proving import Report

AWAY_S = 5.0


@pytest.mark.timeout(600)
async def test_what_was_delivered_while_the_store_was_away_is_billed(
    tmp_path: Path, measured: list[str]
) -> None:
    report = Report("outages", {})
    found = await prove(tmp_path, AWAY_S, report)
    measured += [f"an outage: {seen}" for seen in report.seen]
    assert found == []
