"""Epochs of a node, which only grow."""

from __future__ import annotations

from pathlib import Path

from actors.roster import epoch


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
