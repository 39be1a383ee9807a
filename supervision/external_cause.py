"""A cause outside a child that excuses its end: something is missing, or in its way, and restarts
can't wear it out."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from supervision.backoff import Backoff
from supervision.errors import DiskFull, Hindered, TetherError


class ExternalCause(StrEnum):
    """An exit for one of these counts towards no intensity: the child is started again, however
    often, with `PATIENCE`. Each is the code of the error that the child ended with."""

    DISK_FULL = DiskFull.code
    HINDERED = Hindered.code

    @classmethod
    def of(cls, code: str) -> ExternalCause | None:
        """The excuse that an error of this code is; None if it is the child's own fault."""
        return next((excuse for excuse in cls if excuse == code), None)

    @classmethod
    def in_error(cls, error: BaseException) -> ExternalCause | None:
        """The same for an error."""
        return cls.of(error.code) if isinstance(error, TetherError) else None


#: Between two attempts of a child that is excused: what is missing may come back at any moment.
PATIENCE: Final = Backoff(initial_s=0.1, max_s=1.0)
