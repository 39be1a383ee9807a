"""Announcements refused: all counted, few logged."""

from __future__ import annotations

from typing import Any

import pytest

from actors.roster import refusals
from actors.roster.announcement import Refusal
from actors.roster.refusals import Refusals


def test_all_are_counted_and_few_are_logged(monkeypatch: pytest.MonkeyPatch):
    lines: list[dict[str, Any]] = []

    class Log:
        def warning(self, event: str, **fields: Any) -> None:
            lines.append(fields)

    monkeypatch.setattr(refusals, "log", Log())
    made = Refusals()
    for n in range(100):
        made.add(Refusal.FORGED, "n2", "it is forged", n * 0.01)
        made.add(Refusal.STRANGER, f"x{n}", "who is that", n * 0.01)
    made.add(Refusal.STALE, "n2", "it is old", 1.0)
    made.add(Refusal.FORGED, "n2", "it is forged", 11.0)
    assert [(f["reason"], f["by"], f["unsaid"]) for f in lines] == [
        ("forged", "n2", 0),
        ("stranger", "x0", 0),
        ("stale", "n2", 0),
        ("forged", "n2", 99),
    ]
    assert made.counts[Refusal.FORGED] == 101
    assert made.counts[Refusal.STRANGER] == 100
