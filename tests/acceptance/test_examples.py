"""The examples as a stranger runs them: what they print, and that nothing of them is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.node_process import ROOT, environment
from tests.support.waiting import PATIENCE_S

MARK = "TETHER_EXAMPLE"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For whatever an example writes; short, for sockets lie in it."""
    return tmp_path_factory.mktemp("ex")


def shown(name: str, folder: Path) -> str:
    """What the example prints. Its processes inherit a mark, by which those left are found."""
    mark = str(uuid.uuid4())
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"],
        cwd=ROOT,
        env={**environment(), "TMPDIR": str(folder), MARK: mark},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert marked(mark) == []
    assert list(folder.iterdir()) == []
    return done.stdout


def marked(mark: str) -> list[str]:
    """The processes that carry `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"{MARK}={mark}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_those_left_would_be_found() -> None:
    """Else "nothing is left" would say nothing."""
    mark = str(uuid.uuid4())
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: mark})
    try:
        assert len(marked(mark)) == 1
    finally:
        process.kill()
        process.wait()
    assert marked(mark) == []


def test_own_actor(folder: Path) -> None:
    assert shown("own_actor", folder).splitlines() == [
        "the counter runs, generation 1",
        "WordsCounted(words=6, total=6)",
        "WordsCounted(words=4, total=10)",
        "its process is killed",
        "its supervisor has restarted it, generation 2",
        "WordsCounted(words=6, total=6)",
        "all is stopped",
    ]


def test_own_engine(folder: Path) -> None:
    undisturbed, begun, resumed, same, snapshot = shown("own_engine", folder).splitlines()
    said = undisturbed.removeprefix("undisturbed:  ").removesuffix(" (length)")
    assert len(said.split()) == 12
    assert said == resumed.removeprefix("by a second:  ")
    assert said.startswith(begun.removeprefix("broken off:   "))
    assert same == "the same to the last word"
    assert "output_tokens=12" in snapshot


@pytest.mark.timeout(360)
def test_kill_a_worker(folder: Path) -> None:
    said = shown("kill_a_worker", folder)
    assert re.search(r"^50 words came, then echo-[01] was killed with SIGKILL$", said, re.M), said
    assert "300 words came in all, of 300\nwhole and in order: yes\n" in said
    assert re.search(r"^the job: completed by echo-[01], in attempt [2-9]$", said, re.M), said
    assert "\nthe ledger: 1 bill, for 300 tokens\n" in said
    assert said.endswith("\nthe node is stopped\n")
