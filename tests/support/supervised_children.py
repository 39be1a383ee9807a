"""Children for the tests of supervision; they run in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec

from actors.contracts import ListModels, Readiness, Ready
from supervision.child import Supervised
from supervision.contracts import ChildReady, StartChild
from supervision.errors import TetherError
from supervision.runtime import Address, on
from supervision.security.audience import NODE, PLACER


class StubOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stub does. Every start and stop is a line of `journal`: word, path, pid. While
    the file `broken` exists it can't start. When it stops it asks the child at the path
    `settles_with` something, and notes whether that answered."""

    journal: str = ""
    broken: str = ""
    start_s: float = 0.0
    stop_s: float = 0.0
    settles_with: str = ""
    deaf: bool = False  # blocks its loop when it is told to stop


class Stub(Supervised):
    """Answers `Readiness` with its path, its needs, and what it was told to look up."""

    Options = StubOptions

    async def start(self, options: StubOptions) -> None:
        self.options = options
        self.note("start")
        if options.settles_with:
            await self.tree.wait(options.settles_with, 60.0)
        if options.broken and Path(options.broken).exists():
            raise RuntimeError("the disk is on fire")
        await asyncio.sleep(options.start_s)
        self.note("ready")

    async def stop(self, deadline_s: float) -> None:
        if self.options.deaf:
            time.sleep(600)  # noqa: ASYNC251
        await asyncio.sleep(self.options.stop_s)
        if self.options.settles_with:
            await self._settle(self.options.settles_with)
        self.note("stop")

    async def _settle(self, path: str) -> None:
        address = self.tree.address(path)
        try:
            await self.ask(address or "", Readiness())
        except (TetherError, ValueError):
            self.note("unsettled")
        else:
            self.note("settled")

    def note(self, word: str) -> None:
        if self.options.journal:
            with open(self.options.journal, "a") as journal:  # noqa: PTH123
                journal.write(f"{word} {self.path} {self.pid}\n")

    @on(Readiness, of=NODE)
    def ready(self, msg: Readiness, sender: Address) -> Ready:
        return Ready(models=(self.path, *(f"{k}={v}" for k, v in sorted(self.needs.items()))))

    @on(ListModels, of=NODE)
    async def obey(self, msg: ListModels, sender: Address) -> Ready | None:
        """`credential` is a command."""
        word, _, rest = msg.credential.partition(" ")
        if word == "fail":
            await self.fail(RuntimeError(rest))
        elif word == "finish":
            await self.finish()
        elif word == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, set())
            os.kill(os.getpid(), signal.SIGSTOP)
        elif word == "hold":
            self.held = [*getattr(self, "held", []), b"x" * (int(rest) << 20)]
        elif word == "wait":
            return Ready(models=(str(await self.tree.wait(rest, 60.0)),))
        elif word == "under":
            await self.tree.first(60.0)
            return Ready(models=tuple(node.path for node in self.tree.under(rest)))
        return None


class Liar(Stub):
    """Says that it is another process."""

    @on(StartChild, of=PLACER)
    async def _start_child(self, msg: StartChild, sender: Address) -> ChildReady:
        await super()._start_child(msg, sender)
        return ChildReady(pid=1, address=f"{self.address.node}/1-init/0")
