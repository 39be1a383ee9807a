"""What ps shows of a process, and that its environment stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervision.telemetry.title import ROOM

PROGRAM = """
import sys
from supervision.telemetry import title
title.show("n1", sys.argv[1])
print(title.under("engine m@1"), flush=True)
sys.stdin.read()
"""


def shown(what: str, *more: str, program: str = PROGRAM) -> tuple[str, str, str]:
    """The title of a process that shows `what`, its short name, and what one it starts is to be
    called; its environment says still what it was told."""
    told = {**os.environ, "TOLD_FIRST": "1", "TOLD_LAST": "x" * 200}
    command = [sys.executable, "-c", program, what, *more]
    with subprocess.Popen(
        command, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        under = process.stdout.readline().strip()
        proc = Path(f"/proc/{process.pid}")
        words = (proc / "environ").read_bytes().rstrip(b"\0").split(b"\0")
        assert dict(os.fsdecode(word).split("=", 1) for word in words) == told
        title = (proc / "cmdline").read_bytes().rstrip(b"\0").decode()
        name = (proc / "comm").read_text().strip()
        process.communicate()
    return title, name, under


def test_a_process_has_its_title_and_keeps_its_environment() -> None:
    title, name, under = shown("control/scheduler")
    assert title == "tether n1 control/scheduler"
    assert name == "ntrol/scheduler"
    assert under == "tether n1 control/scheduler engine m@1"


@pytest.mark.parametrize("length", [100, ROOM - 20, 4 * ROOM])
def test_a_long_title_is_cut_where_the_command_line_ends(length: int) -> None:
    what = "x" * length
    title, _, _ = shown(what, " " * ROOM)
    assert title == f"tether n1 {what}"
    title, _, _ = shown("y", program=f"called = 'n1'; w = 'z' * 4096\n{PROGRAM}".replace(
        "sys.argv[1])", "w)"
    ))  # fmt: skip
    assert title.startswith("tether n1 zzz")


def test_without_the_package_there_is_no_title() -> None:
    title, _, under = shown(
        "worker", program=f"import sys; sys.modules['setproctitle'] = None\n{PROGRAM}"
    )
    assert title.endswith("\0worker")
    assert under == "tether n1 worker engine m@1"
