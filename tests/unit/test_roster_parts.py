"""What a roster is made of: its epoch, what it counts and says of refusals, its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.roster import OtherNode, RosterOptions, epoch, refusals
from actors.roster.announcement import Refusal
from actors.roster.membership import MembershipOptions
from actors.roster.refusals import Refusals


def test_an_epoch_is_above_the_last_whatever_the_clock_does(tmp_path: Path):
    folder = tmp_path / "state"
    assert epoch.begin(folder, 1000) == 1000
    assert epoch.begin(folder, 900) == 1001
    assert epoch.begin(folder, 5000) == 5000
    assert epoch.begin(folder, 5000, above=7000) == 7001
    (folder / epoch.FILE).write_text("not a number")
    assert epoch.begin(folder, 8000) == 8000
    assert epoch.begin(None, 1, above=5) == 6


def test_an_epoch_that_can_not_be_kept_is_the_clock_s(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert epoch.begin(tmp_path / "file" / "below", 1000) == 1000


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspect_s": 20.0},
        {"max_workers": 0},
        {"announce_s": 10.0},
        {"announce_s": 0.0},
        {"others": (OtherNode(id="n1", admin_port=1),)},
        {"others": (OtherNode(id="n2", admin_port=1),) * 2},
    ],
)
def test_options_are_validated(wrong: dict[str, Any]):
    with pytest.raises(ValueError):
        RosterOptions(**wrong)
    RosterOptions(membership=MembershipOptions(suspect_s=30, expiry_s=40), announce_s=10.0)
