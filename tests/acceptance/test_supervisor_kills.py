"""A supervisor's end is one restart, and no client is refused: the short version of
`scripts/prove supervisors`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.node_process import Launcher, write_config
from tests.support.supervisor_kills import Seen, kill_all
from tests.support.waiting import PATIENCE_S

ROUNDS = (
    ("doors",),
    ("doors",),
    ("doors", "workers"),
    ("doors", "postgres"),
    ("doors",),
    ("doors", "workers"),
)


@pytest.mark.timeout(600)
async def test_the_node_outlives_its_supervisors(
    launch: Launcher, tmp_path: Path, measured: list[str]
) -> None:
    write_config(tmp_path)
    node = launch(tmp_path)
    seen = Seen()
    await kill_all(node, ROUNDS, seen, PATIENCE_S)
    assert seen.refused == []
    assert seen.whole and seen.broken, "no answer was under way"
    measured.append(
        f"kills of supervisors: answered again after {max(seen.answered_s):.2f} s at most; "
        f"{seen.whole} whole answers, {seen.broken} broken ones"
    )
    assert node.stop() == 0
