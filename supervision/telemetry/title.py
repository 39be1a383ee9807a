"""The title of this process in ps and top: `tether NODE WHAT`, as `tether n1 control/scheduler`.

The title takes the room of the command line and no more (`SPT_NOENV`): setproctitle would write
over the environment too, by which is found what a killed node has left
(`tether/node/processes.py`). So whoever starts a process sees to it that its command line is long
enough; what doesn't fit is cut. Where the package is missing (an environment of one's own for vLLM)
there are no titles.
"""

from __future__ import annotations

import os
from typing import Final

# before the first import, whoever does it; inherited, as libraries set titles too
os.environ["SPT_NOENV"] = "1"

try:
    from setproctitle import setproctitle, setthreadtitle
except ImportError:

    def setproctitle(title: str) -> None: ...
    def setthreadtitle(title: str) -> None: ...


ROOM: Final = 256  # bytes; what the longest title takes, with a node and a child of 64 letters each
_KERNEL_KEEPS: Final = 15  # of the short name, proc(5)

_title = "tether"


def show(node: str, what: str) -> None:
    """Be `tether NODE WHAT` for ps, and the end of `tether:WHAT` for what shows the short name."""
    entitle(f"tether {node} {what}")
    setthreadtitle(f"tether:{what}"[-_KERNEL_KEEPS:])


def entitle(title: str) -> None:
    """Be `title` for ps, and its end for what shows the short name."""
    global _title
    _title = title
    setproctitle(title)
    setthreadtitle(title[-_KERNEL_KEEPS:])


def under(what: str) -> str:
    """The title of a process that this one starts for `what`: its own, and that."""
    return f"{_title} {what}"
