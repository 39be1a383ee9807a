"""The processes of engines that a killed worker may leave for moments.

They get SIGKILL with their worker (PR_SET_PDEATHSIG), but one that held a hundred gigabytes of a
GPU is not gone at once, and whoever follows would find no room. Their worker can't be asked who
they are, and proc(5) stops to show the environment of a process before the kernel has closed its
files; so they are known by their names.
"""

from __future__ import annotations

import asyncio
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

from actors.engines import host_wire
from supervision.errors import Hindered

END_S: Final = 15.0  # a kill of the largest is done in a second or two
_STEP_S: Final = 0.05
_THREADS: Final = 17  # of the words of proc(5)'s stat after the name
_HOME: Final = "TETHER_NODE_HOME"  # of every process that `tether up` has started


async def gone(path: str, end_s: float = END_S) -> None:
    """Returns when no engine of another process that was the worker at `path` is left, and names
    those that this one starts from now on. Nothing happens outside of a node of `tether up`.

    Raises:
        Hindered: some are left after `end_s` seconds.
    """
    home = os.environ.get(_HOME)
    if not home:
        return
    name = os.environ[host_wire.NAME] = name_of(home, path)
    loop = asyncio.get_running_loop()
    until = loop.time() + end_s
    while left := await asyncio.to_thread(_named, name):
        if loop.time() >= until:
            raise Hindered(
                f"engines of the worker before haven't ended (pids {left[:8]}), though they were "
                "sent SIGKILL; ps tells what keeps them"
            )
        await asyncio.sleep(_STEP_S)


def name_of(home: str, path: str) -> str:
    """Of the engines of the worker at `path`; no other worker of this machine has it. 15 letters,
    as many as the kernel keeps."""
    return f"engine:{blake2b(f'{home}:{path}'.encode(), digest_size=4).hexdigest()}"


def _named(name: str) -> list[int]:
    """The processes of that name which still hold anything."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            _, _, rest = (entry / "stat").read_text().partition("(")
        except OSError:  # it ended just now
            continue
        comm, _, fields = rest.rpartition(")")
        state, threads = fields.split()[0], int(fields.split()[_THREADS])
        if comm == name and (state not in "ZX" or threads > 1):  # they share what it held
            found.append(int(entry.name))
    return found
