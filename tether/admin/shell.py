"""The shell: finds, checks, writes down, does and shows the commands of a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from supervision.errors import TetherError
from supervision.telemetry.audit import Unwritable
from tether.admin.auditor import Auditor
from tether.admin.commands import ShellCommand, all_commands, named
from tether.admin.completing import LEAVING, Known
from tether.admin.grid import UNBOUNDED
from tether.admin.node import NodeClient
from tether.admin.output import Output
from tether.admin.parser import Misspelt, commands
from tether.admin.refused import CommandRefused

REFRESH_S: Final = 1.0
_CLEAR: Final = "\x1b[H\x1b[2J"

OK: Final = 0
FAILED: Final = 1
WRONG: Final = 2


class Left(Exception):
    """`exit` was typed."""


class Shell:
    """Runs lines on one node. `write` takes what is printed, `complain` the sentences of errors;
    `live` says whether a command may go on and draw over what it showed, `width` how many columns
    there are now."""

    def __init__(
        self,
        node: NodeClient,
        audit: Auditor,
        *,
        write: Callable[[str], object],
        complain: Callable[[str], object],
        as_json: bool = False,
        live: bool = False,
        allow_eval: bool = False,
        width: Callable[[], int] = lambda: UNBOUNDED,
    ) -> None:
        self.node = node
        self.audit = audit
        self.commands = all_commands()
        self.known = Known(node=node.state.node)
        self._write = write
        self._complain = complain
        self._as_json = as_json
        self._live = live
        self._allow_eval = allow_eval
        self._width = width

    async def run(self, line: str) -> int:
        """All commands of a line, up to the first that can't be done; the exit code: 0 when all
        were done, 1 when one could not be, 2 when one was asked wrongly.

        Raises:
            Left: the line says so.
        """
        try:
            found = commands(line)
        except Misspelt as error:
            self._complain(str(error))
            return WRONG
        for name, *words in found:
            if name in LEAVING and not words:
                raise Left
            try:
                await self._run(named(name, self.commands), words)
            except CommandRefused as error:
                self._complain(error.sentence)
                return error.code
            except TetherError as error:
                self._complain(error.message)
                return WRONG if error.status == 400 else FAILED
            except Unwritable as error:
                self._complain(str(error))
                return FAILED
        return OK

    async def _run(self, command: ShellCommand, words: list[str]) -> None:
        command.check(words)
        if not command.writes(words):
            await self._show(command, words)
            return
        outcome = await self.audit.begins(command.name, words)
        try:
            if command.name == "eval":
                self._check_eval()
            await self._show(command, words)
        except CommandRefused as error:
            await outcome(f"refused: {error.sentence}")
            raise
        except TetherError as error:
            await outcome(f"failed: {error.message}")
            raise
        except BaseException as error:
            await outcome(f"broken off: {type(error).__name__}")
            raise
        await outcome("done")

    async def _show(self, command: ShellCommand, words: list[str]) -> None:
        shown = await command.run(self.node, words)
        if not (command.live and self._live):
            self._print(shown)
            return
        while True:
            self._write(_CLEAR)
            self._print(shown)
            await asyncio.sleep(REFRESH_S)
            shown = await command.run(self.node, words)

    def _print(self, shown: Output) -> None:
        self._write(shown.text(as_json=self._as_json, width=self._width()))

    def _check_eval(self) -> None:
        if not self._allow_eval:
            raise CommandRefused(
                "eval is off: start the shell with `tether shell --allow-eval` (whoever may use it "
                "may do anything that you may)"
            )
        if not self.node.state.allow_eval:
            raise CommandRefused("eval is off on this node: it was not started with `--allow-eval`")

    async def learn(self) -> None:
        """Look at the node for what completion offers; keeps what it knew when that fails."""
        from tether.admin.traffic import fleet

        try:
            tree = await self.node.look()
            self.known.children = tuple(child.path for child in tree.nodes)
            found = await fleet(self.node)
        except (TetherError, CommandRefused):
            return
        self.known.workers = {worker.worker_id: worker.models for worker in found.workers}
