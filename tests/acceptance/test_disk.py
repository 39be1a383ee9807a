"""A full disk and kills in it end no node; `scripts/prove disk` does it for longer, with all kills
and the clock."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from disk_prove import inside

from tests.support.waiting import PATIENCE_S

SECONDS = 8.0
KILLS = 5


@pytest.mark.timeout(600)
def test_a_full_disk_and_kills_in_it_end_no_node(tmp_path: Path, measured: list[str]) -> None:
    command = inside(tmp_path / "disk", SECONDS, seed=3, within_s=PATIENCE_S, kills=KILLS)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    measured += [line for line in done.stdout.splitlines() if "after the room" in line]
