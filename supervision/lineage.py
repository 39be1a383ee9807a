"""The processes of a node by the path at which they run, those of predecessors among them.

A supervisor that was killed leaves children behind, which end by themselves within moments, while
its successor begins anew at the same paths. The root alone has seen both generations: it ends those
that hang, and tells when none is left of those that ran at a path before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from supervision.contracts import AwaitPredecessors
from supervision.errors import Hindered, NoAnswer
from supervision.process import ChildProcess

if TYPE_CHECKING:
    from supervision.child import Supervised

ORPHAN_S: Final = 5.0  # what the children of a dead supervisor may take to end by themselves
KILL_S: Final = 2.0  # and what a kill may


class Lineage:
    """Holds a process until it has ended, so as many as there are; `ended` is told the pid."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: Callable[[int], object]) -> None:
        self._loop = loop
        self._ended = ended
        self._at: dict[str, dict[int, ChildProcess]] = {}
        self._waiting: dict[asyncio.Future[None], tuple[str, int]] = {}

    def runs(self, path: str, pid: int) -> None:
        """That process runs at `path` now. May be told often."""
        if pid in self._at.get(path, ()):
            return
        try:
            process = ChildProcess(self._loop, pid, lambda: self._gone(path, pid))
        except ProcessLookupError:
            return
        self._at.setdefault(path, {})[pid] = process

    def orphan(self, path: str) -> None:
        """The supervisor of what runs there is gone. It ends by itself, unless its loop is
        blocked."""
        for process in self._at.get(path, {}).values():
            self._loop.call_later(ORPHAN_S, process.kill)

    async def alone(self, path: str, pid: int) -> None:
        """Returns when no process but `pid` is left of those that have run at `path`."""
        if self._at.get(path, {}).keys() <= {pid}:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting[done] = (path, pid)
        try:
            await done
        finally:
            del self._waiting[done]

    def _gone(self, path: str, pid: int) -> None:
        left = self._at[path]
        del left[pid]
        if not left:
            del self._at[path]
        for done, (where, but) in self._waiting.items():
            if where == path and left.keys() <= {but} and not done.done():
                done.set_result(None)
        self._ended(pid)


async def predecessors_gone(supervisor: Supervised, path: str, pid: int) -> None:
    """Asks the root, and returns when nobody has what process `pid` is to have at `path`. The
    root's own children have no orphans before them: it has seen them end.

    Raises:
        Hindered: a predecessor is there still.
        TetherError: the root is gone.
    """
    if not supervisor.root:
        return
    question = AwaitPredecessors(path=path, pid=pid)
    try:
        await supervisor.ask(supervisor.root, question, timeout=ORPHAN_S + KILL_S)
    except NoAnswer:
        raise Hindered(
            f"a process that ran as {path} before was sent SIGKILL and hasn't ended; ps tells what "
            "keeps it"
        ) from None
