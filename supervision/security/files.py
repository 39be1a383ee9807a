"""Secret files: written whole or not at all, and readable by their owner only."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in it are on disk when this returns.

    Raises:
        OSError: the disk fails.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def is_private(path: Path) -> bool:
    """May nobody but the owner of `path` read or write it?"""
    return not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
