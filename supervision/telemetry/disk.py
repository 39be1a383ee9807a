"""The room on a disk, and what this process did without because it could not be written.

Room is what a plain user has: a disk keeps some back for root. What could not be written is said,
and handed on for counting, only when `drain` is called: it may have been metrics, or the log.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Final

from supervision.telemetry import logs

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})  # the disk, or one's share of it

log = logs.get(__name__)
_amiss: dict[str, str] = {}  # what could not be written when it was tried last: why
_said: set[str] = set()  # that of it which was said
_counted: Counter[str] = Counter()


def room(folder: Path) -> int:
    """Bytes that a plain user may still write on the disk of `folder`, 0 also where no file can be
    made. The folder itself may be missing.

    Raises:
        OSError: the disk can't be asked.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    there = os.statvfs(folder)
    no_files = there.f_files > 0 and there.f_favail == 0
    return 0 if no_files else there.f_bavail * there.f_frsize


def shortage(folder: Path, needed: int) -> str:
    """A sentence that says that fewer than `needed` bytes are left for `folder`; empty if there are
    as many, or nobody can tell."""
    try:
        left = room(folder)
    except OSError:
        return ""
    if left >= needed:
        return ""
    return f"the disk of {folder} is full ({left >> 10} KiB left); free at least {needed >> 20} MiB"


def unwritten(what: str, error: OSError) -> None:
    """`what` can't be written, and is done without."""
    _counted[what] += 1
    _amiss[what] = str(error)


def written(what: str) -> None:
    """It can be written."""
    _amiss.pop(what, None)


def drain() -> Counter[str]:
    """How often each could not be written since this was called last; says once what can't be, and
    once that it can again."""
    global _counted
    for what in _amiss.keys() - _said:
        _said.add(what)
        log.warning("can't be written, and is done without", what=what, error=_amiss[what])
    for what in _said - _amiss.keys():
        _said.discard(what)
        log.info("is written again", what=what)
    counted, _counted = _counted, Counter()
    return counted
