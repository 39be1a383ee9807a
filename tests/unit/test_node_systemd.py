"""What systemd is told, and that the unit file fits what `tether up` does."""

from __future__ import annotations

import os
import socket
from configparser import ConfigParser
from pathlib import Path

import pytest

from tether.config import load
from tether.node.systemd import Notifier

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("abstract", [False, True])
def test_words_arrive_and_nobody_else_can_speak(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"@tether-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + told[1:] if abstract else told)
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", told)
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        notifier.tell("READY=1", "STATUS=ready")
        assert sock.recv(100) == b"READY=1\nSTATUS=ready"


def test_nobody_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().tell("READY=1")


def test_the_unit_leaves_the_time_that_a_node_may_take() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "packaging" / "systemd" / "tether@.service")
    service = unit["Service"]
    node = load(ROOT / "docs" / "cluster.example.toml").node
    assert float(service["TimeoutStartSec"]) > node.start_deadline_s
    assert float(service["TimeoutStopSec"]) > 2 * node.stop_deadline_s
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert service["ExecStart"].endswith("tether up --config /etc/tether/cluster.toml --node %i")
