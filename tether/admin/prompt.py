"""The prompt: editing, completion, history, and Ctrl-C that ends a command, not the shell."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory

from supervision.telemetry.audit import private
from tether.admin.completing import completions
from tether.admin.lines import interruptible
from tether.admin.shell import OK, Left, Shell

MAX_HISTORY: Final = 256 << 10  # bytes that a new shell finds; older ones are dropped
LEARN_S: Final = 3.0  # between two looks at what completion offers, while somebody types


class _Completer(Completer):
    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._learned = float("-inf")

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        line = document.text_before_cursor
        for word, there in completions(line, self._shell.commands, self._shell.known):
            yield Completion(word, start_position=-there)

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        loop = asyncio.get_running_loop()
        if loop.time() - self._learned > LEARN_S:
            self._learned = loop.time()
            await self._shell.learn()
        for completion in self.get_completions(document, complete_event):
            yield completion


async def converse(shell: Shell, path: Path, user: str) -> int:
    """Lines from the terminal until `exit` or Ctrl-D; the exit code is 0. What is typed is kept in
    the file at `path`."""
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history(path))),
        completer=_Completer(shell),
        complete_while_typing=False,
        enable_history_search=True,
    )
    message = f"{shell.node.state.node}{'#' if user == 'root' else '>'} "
    await shell.learn()
    while True:
        try:
            line = await session.prompt_async(message)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return OK
        try:
            await interruptible(shell, line)
        except Left:
            return OK


def history(path: Path) -> Path:
    """The file of what was typed, for its owner only; of a long one the end is kept.

    Raises:
        OSError: it can't be written.
    """
    number = private(path, os.O_RDWR)
    try:
        size = os.fstat(number).st_size
        if size > MAX_HISTORY:
            kept = os.pread(number, MAX_HISTORY // 2, size - MAX_HISTORY // 2)
            kept = kept[kept.find(b"\n\n") + 1 :]  # an entry begins after an empty line
            os.ftruncate(number, 0)
            os.pwrite(number, kept, 0)
    finally:
        os.close(number)
    return path
