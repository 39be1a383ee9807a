"""Secret files: written whole or not at all, and readable by their owner only."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from supervision.settings import Problem

_READ, _WRITE = "read", "change"


def make_folder(path: Path) -> None:
    """Makes `path` with mode 0700, unless it is there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write(path: Path, content: bytes) -> None:
    """Puts `content` at `path`, mode 0600, in one rename; it is on disk when this returns.

    Raises:
        OSError: it can't be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_private(path: Path) -> bool:
    """May nobody but the owner of `path` read or write it?"""
    return not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def readable_by_others(
    path: Path, what: str = "a secret", *, group: bool = False
) -> Problem | None:
    """That somebody else than its owner may read or write `path`, which holds `what`; None if
    nobody may, or there is no such file. With `group`, its group may read it: a configuration
    often belongs to root, and the service's group reads it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None  # whoever needs it says that it can't be read
    allowed = 0o740 if group else 0o700
    loose = mode & 0o066 & ~allowed
    if not loose:
        return None
    may = _WRITE if loose & 0o022 else _READ
    who = "all users" if loose & 0o006 else "its group"
    return Problem(
        str(path),
        f"{who} may {may} this file (mode {mode:04o}), which holds {what}; "
        f"run `chmod {mode & allowed & 0o640 or 0o600:o} {path}`",
    )
