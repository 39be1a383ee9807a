"""`scripts/demo` as a stranger runs it, but for the installation (scripts/prove demo has that)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.node_process import ROOT, assert_gone, environment, of_home
from tests.support.ports import free_port


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with this one's environment and converted models, on a free port."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "demo", folder / "scripts")
    (folder / "scripts" / "install").write_text("#!/usr/bin/env python3\n")
    text = (ROOT / "cluster.toml").read_text()
    (folder / "cluster.toml").write_text(text.replace("port = 8080", f"port = {free_port()}"))
    (ROOT / ".cache").mkdir(exist_ok=True)
    (folder / ".cache").symlink_to(ROOT / ".cache")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for empty in ("home", "tmp"):
        (tmp_path / empty).mkdir()
    return folder


def demo(checkout: Path, *args: str) -> subprocess.Popen[str]:
    outside = {"HOME": str(checkout.parent / "home"), "TMPDIR": str(checkout.parent / "tmp")}
    environ = {k: v for k, v in environment().items() if k != "XDG_CACHE_HOME"}
    return subprocess.Popen(
        [checkout / "scripts" / "demo", *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environ, **outside},
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_once(checkout: Path, measured: list[str]) -> None:
    process = demo(checkout, "--once")
    shown, _ = process.communicate(timeout=540)
    assert process.returncode == 0, shown
    answer = shown.split("in one sentence.", 1)[1].split("(finish_reason stop", 1)[0]
    assert "force" in answer
    for told in ("control", "reservation", "gateways", "gguf", "doors"):
        assert re.search(rf"{told}\s.*running", shown), shown
    assert re.search(r"state\s+settled", shown)
    assert re.search(r"outcome\s+completed", shown)
    first = re.search(r"first token ([\d.]+) s after the command", shown)
    assert first, shown
    measured.append(f"scripts/demo --once: first token {first[1]} s after the command")
    assert_gone(checkout)
    assert {p.name for p in checkout.iterdir()} == {
        "scripts", "cluster.toml", ".cache", ".venv", ".tether",
    }  # fmt: skip
    for outside in ("home", "tmp"):
        assert list((checkout.parent / outside).iterdir()) == []


@pytest.mark.timeout(600)
def test_stays_up(checkout: Path) -> None:
    """Its curl line works, and Ctrl-C stops it."""
    process = demo(checkout)
    try:
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("curl "):
                break
        else:
            pytest.fail("".join(shown))
        answer = subprocess.run(
            shlex.split(shown[-1].replace("curl -N", "curl -sN")),
            capture_output=True, text=True, timeout=240, check=True,
        ).stdout  # fmt: skip
        assert answer.rstrip().endswith("data: [DONE]")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert_gone(checkout)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        for pid in of_home(checkout / ".tether"):
            os.kill(pid, signal.SIGKILL)
