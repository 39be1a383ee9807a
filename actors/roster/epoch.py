"""The epoch of a roster: a number that grows with every start, whatever the clock does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from supervision.security.files import make_folder, write
from supervision.telemetry import disk, logs

FILE: Final = "roster.epoch"

log = logs.get(__name__)


def begin(folder: Path | None, now_ms: int, above: int = -1) -> int:
    """A new epoch: the clock in milliseconds, or one more than the last where that is higher, and
    above `above`. What can't be kept is logged: the clock alone has to do then."""
    last = -1
    path = None if folder is None else folder / FILE
    if path is not None:
        try:
            last = int(path.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("can't read the last epoch", path=str(path), error=str(error))
    epoch = max(now_ms, last + 1, above + 1)
    if path is not None:
        try:
            make_folder(path.parent)
            write(path, str(epoch).encode())
        except OSError as error:
            disk.unwritten("epoch of the roster", error)
    return epoch
