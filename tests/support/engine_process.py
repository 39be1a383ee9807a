"""The processes of engines, told by their title."""

from __future__ import annotations

import psutil


def is_engine(process: psutil.Process) -> bool:
    """Whether this one is an engine's, `tether NODE workers/ID engine MODEL`."""
    return any(" engine " in word for word in process.cmdline())
