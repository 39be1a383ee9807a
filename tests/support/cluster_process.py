"""Several nodes of one cluster as real processes: one `cluster.toml`, one authority."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.node_process import STEP_S, TETHER, environment, of_home, tether


@dataclass
class Member:
    """The node called `id` of the cluster in `folder`; `inside` is put before its commands."""

    folder: Path
    id: str
    inside: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "data" / self.id

    @property
    def log(self) -> Path:
        return self.folder / f"{self.id}.log"

    @property
    def state(self) -> dict[str, Any]:
        """What the node says of itself."""
        try:
            found: dict[str, Any] = json.loads((self.home / "node.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def start(self) -> None:
        """`tether up`, without waiting."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.inside, *TETHER, "up", "--node", self.id], cwd=self.folder,
                env=environment(), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        until = time.monotonic() + timeout_s
        while not (self.state.get("ready") and self.process and self.pid_is_ours()):
            assert self.process is not None
            assert self.process.poll() is None, f"{self.id} ended early:\n{self.tail()}"
            assert time.monotonic() < until, f"{self.id} not ready:\n{self.tail()}"
            time.sleep(STEP_S)

    def pid_is_ours(self) -> bool:
        """Not what an earlier run has left."""
        assert self.process is not None
        return self.state.get("pid") in {self.process.pid, *of_home(self.home)}

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def pids(self) -> set[int]:
        own = {self.process.pid} if self.process is not None else set()
        return own | set(of_home(self.home))

    def kill(self) -> None:
        """SIGKILL to all of its processes, as when the machine is gone."""
        while pids := {pid for pid in self.pids() if _alive(pid)}:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self.process is not None:
                self.process.poll()
            time.sleep(STEP_S)

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            for pid in {self.state.get("pid", self.process.pid)}:
                os.kill(pid, signal.SIGTERM)
        return self.process.wait(timeout_s)

    def status(self) -> dict[str, dict[str, Any]]:
        """The cluster as this node sees it, by node."""
        shown = tether("cluster", "status", "--json", "--node", self.id, cwd=self.folder)
        assert shown.returncode == 0, shown.stderr
        return {line["node"]: line for line in map(json.loads, shown.stdout.splitlines())}

    def tree(self) -> dict[str, dict[str, Any]]:
        shown = tether("tree", "--json", "--node", self.id, cwd=self.folder)
        assert shown.returncode == 0, shown.stderr
        return {line["path"]: line for line in map(json.loads, shown.stdout.splitlines())}


def certify(folder: Path, nodes: Sequence[str], *, cluster: str = "tether") -> None:
    """An authority in `folder`, and a certificate for each node."""
    for command in (
        ("ca", "init", "ca", "--cluster", cluster),
        *(("ca", "issue", node, "--ca", "ca") for node in nodes),
    ):
        made = tether(*command, cwd=folder)
        assert made.returncode == 0, made.stderr


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
