"""SIGKILL of the parts of several nodes, and of the connections of their database; a node that has
ended by that is started again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import psutil

from tests.support.bills import Books
from tests.support.cluster_process import Member
from tests.support.node_process import STEP_S, until

# what may be killed, by the start of its path in the tree, and how often beside the others
SHARES: Final = {
    "control/reservation": 3, "control/gateways/": 3, "workers/": 3, "connection": 2, "backend": 1,
}  # fmt: skip
_BACKENDS: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'tether' AND backend_type = 'client backend'
"""


class Killer:
    """Every `every_s` seconds one process, drawn; first one of each kind. A `connection` is ended
    by the server, which goes on; a `backend` is killed, by which the server ends all others and
    recovers."""

    def __init__(
        self, members: Mapping[str, Member], books: Books, dice: random.Random, every_s: float
    ) -> None:
        self._members, self._books, self._dice, self._every_s = members, books, dice, every_s
        self.times: list[float] = []  # monotonic
        self.killed: Counter[str] = Counter()
        self.starts = 0
        self._tasks = [asyncio.create_task(self._kill()), asyncio.create_task(self._keep())]

    async def stop(self) -> None:
        """The last one was the last; returns when all nodes answer.

        Raises:
            Exception: what has kept it from killing.
        """
        killing, keeping = self._tasks
        killing.cancel()
        await asyncio.wait([killing])
        try:
            await until(self._ready, "all nodes are ready again", 240.0)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def _ready(self) -> bool:
        return all(
            member.process is not None
            and member.process.poll() is None
            and bool(member.state.get("ready"))
            for member in self._members.values()
        )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            for member in self._members.values():
                if member.process is None or member.process.poll() is not None:
                    member.start()
                    self.starts += 1

    def _kinds(self) -> Iterator[str]:
        yield from self._dice.sample(list(SHARES), len(SHARES))
        while True:
            yield from self._dice.choices(list(SHARES), list(SHARES.values()))

    async def _kill(self) -> None:
        for kind in self._kinds():
            await asyncio.sleep(self._every_s)
            if kind in ("connection", "backend"):
                pids = [row[0] for row in await self._books.fetch(_BACKENDS)]
            else:
                member = self._members[self._dice.choice(sorted(self._members))]
                pids = await asyncio.to_thread(_parts, member, kind)
            if not pids:
                continue
            with suppress(ProcessLookupError):
                last = signal.SIGTERM if kind == "connection" else signal.SIGKILL
                os.kill(self._dice.choice(pids), last)
                self.times.append(time.monotonic())
                self.killed[kind.strip("/").rpartition("/")[2]] += 1


def _parts(member: Member, path: str) -> list[int]:
    """Its processes whose place in the tree begins with `path`."""
    begins = f"tether {member.id} {path}"
    found = []
    for pid in sorted(member.pids()):
        with suppress(psutil.Error):
            if " ".join(psutil.Process(pid).cmdline()).startswith(begins):
                found.append(pid)
    return found
