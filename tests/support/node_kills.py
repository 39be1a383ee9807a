"""SIGKILL of whatever a node consists of, and somebody who starts it again, as systemd does."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from tests.support.node_process import STEP_S, Launcher, Node, of_home, until

TETHER, BACKEND, SERVER, VALKEY = "Tether", "a backend", "the server", "Valkey"
SHARES: Final = {TETHER: 7, BACKEND: 1, SERVER: 1, VALKEY: 1}
AGAIN_S: Final = 0.5  # until a node that has ended is started again


def kinds_of(node: Node) -> dict[str, dict[int, str]]:
    """All that may be killed now, by kind: pids and what they are."""
    found: dict[str, dict[int, str]] = {TETHER: {}, BACKEND: {}, SERVER: {}, VALKEY: {}}
    for process in processes(node):
        with suppress(psutil.Error, OSError):
            pid, title = process.pid, " ".join(process.cmdline()).strip(" .\0")
            program = Path(title.split(" ", 1)[0]).name
            if title.startswith("postgres: "):
                if title.startswith("postgres: tether"):  # a client's, not one of the server's own
                    found[BACKEND][pid] = title.rsplit(" [", 1)[0]
            elif program == "postgres":
                found[SERVER][pid] = program
            elif title.endswith("valkey server") or program == "valkey-server":
                found[VALKEY][pid] = program
            elif "multiprocessing.spawn" in title or "tether.cli" in title:
                found[TETHER][pid] = "one that starts"
            elif title:
                found[TETHER][pid] = title
    return found


class Keeper:
    """Starts the node again whenever it has ended, until told to stop."""

    def __init__(self, launcher: Launcher, node: Node) -> None:
        self._launcher, self.node, self.starts = launcher, node, 0
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            if self.node.process.poll() is None:
                await asyncio.sleep(STEP_S)
                continue
            await asyncio.sleep(AGAIN_S)
            key, folder = self.node.key, self.node.folder
            self.node = self._launcher.start(folder)
            self.node.key = key
            self.starts += 1

    @property
    def is_ready(self) -> bool:
        """Does the node of now answer?"""
        node, state = self.node, self.node.state
        return bool(
            node.process.poll() is None and state.get("ready") and state["pid"] == node.process.pid
        )

    async def ready(self, timeout_s: float = 240.0) -> None:
        """Returns when it does."""

        async def up() -> bool:
            return self.is_ready

        try:
            await until(up, "the node is ready again", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.node.tail()}") from None

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Reaper:
    """Every `every_s` seconds one process, drawn, or two at once. Starts are hit as well, but only
    once between two times that the node was ready: it has few processes then, and would else be
    killed for ever before it is."""

    def __init__(self, keeper: Keeper, dice: random.Random, every_s: float = 2.0) -> None:
        self._keeper, self._dice, self._every_s = keeper, dice, every_s
        self.times: list[float] = []
        self.killed: Counter[str] = Counter()
        self._start_hit = False
        self._task = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self._keeper.is_ready:
                self._start_hit = False
            elif self._start_hit:
                continue
            else:
                self._start_hit = True
            kinds = await asyncio.to_thread(kinds_of, self._keeper.node)
            for _ in range(2 if self._dice.random() < 0.5 else 1):
                self._kill(kinds)

    def _kill(self, kinds: dict[str, dict[int, str]]) -> None:
        there = [kind for kind in kinds if kinds[kind]]
        if not there:
            return  # between two starts
        (kind,) = self._dice.choices(there, [SHARES[kind] for kind in there])
        pid = self._dice.choice(sorted(kinds[kind]))
        title = kinds[kind].pop(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.times.append(time.monotonic())
            self.killed[kind if kind is not TETHER else title] += 1

    async def stop(self) -> None:
        """The last one was the last."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._task.done() and not self._task.cancelled():
            self._task.result()


def kill_whole(node: Node) -> None:
    """SIGKILL to all of its processes, as when the machine is gone, until none is left."""
    known = processes(node)
    while left := [process for process in known | processes(node) if _lives(process)]:
        known |= set(left)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(STEP_S)


def processes(node: Node) -> set[psutil.Process]:
    """Its processes and their children: PostgreSQL's and Valkey's write their titles over the
    environment by which the others are known."""
    found = set()
    for pid in alive(node):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found |= {process, *process.children(recursive=True)}
    return found


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def alive(node: Node) -> set[int]:
    """Its processes that haven't ended."""
    own = {node.process.pid} if node.process.poll() is None else set()
    return own | set(of_home(node.folder / ".tether"))
