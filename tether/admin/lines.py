"""The lines of a shell, from wherever they come, each run so that Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import signal
import sys

from tether.admin.shell import OK, Shell

INTERRUPTED = 130


async def script(shell: Shell, command: str | None) -> int:
    """Runs `command`, or all lines of standard input up to the first that can't be done; the exit
    code is that of the last one.

    Raises:
        Left: a line says `exit`.
    """
    if command is not None:
        return await interruptible(shell, command)
    code = OK
    while code == OK:
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            break
        code = await interruptible(shell, line)
    return code


async def interruptible(shell: Shell, line: str) -> int:
    """Runs a line; Ctrl-C ends it, and gives `INTERRUPTED`."""
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(shell.run(line))
    loop.add_signal_handler(signal.SIGINT, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        if not running.cancelled():
            raise  # somebody else ends the shell
        return INTERRUPTED
    finally:
        loop.remove_signal_handler(signal.SIGINT)
