"""The outcome of an attempt, as policies see it. Pure."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Final

import msgspec

from supervision.errors import (
    Cancelled,
    Draining,
    Overloaded,
    PeerLost,
    RateLimited,
    TetherError,
)


class Ended(Enum):
    """What an attempt came to."""

    COMPLETED = auto()  # answered
    REFUSED = auto()  # nothing began: trying again, here or elsewhere, repeats no work
    FAILED = auto()  # it broke off; the same may go well the next time
    FATAL = auto()  # it broke off, and the same would do so again
    REJECTED = auto()  # the request itself is at fault, and whoever said so is well
    CUT_SHORT = auto()  # its caller had too little time left for it; says nothing about it either
    CANCELLED = auto()  # nobody waits any more; says nothing about whoever worked on it


class AttemptOutcome(msgspec.Struct, frozen=True):  # collected: errors lead anywhere
    """The end of one attempt.

    `error` is None for `COMPLETED` and `CANCELLED` only. `until` is the time, on the caller's
    clock, before which another attempt is pointless. `began` says that the first chunk has
    reached the caller, so that only a resumption may follow, never a retry; who can resume, as a
    request's session can from its journal, leaves it False. `lost`: the target is gone, so all
    that ran there comes at once, and can't come from there again.
    """

    ended: Ended
    error: Exception | None = None
    until: float = -math.inf
    began: bool = False
    lost: bool = False


COMPLETED: Final = AttemptOutcome(Ended.COMPLETED)
CANCELLED: Final = AttemptOutcome(Ended.CANCELLED)


def outcome_of(
    error: Exception, now: float = -math.inf, *, began: bool = False, lost: bool = False
) -> AttemptOutcome:
    """What an exception means. Its `retry_after_s` counts from `now`."""
    until = -math.inf
    if isinstance(error, TetherError):
        if error.retry_after_s is not None:
            until = now + error.retry_after_s
        if isinstance(error, Cancelled):
            return AttemptOutcome(Ended.CANCELLED)
        if isinstance(error, Overloaded | Draining | RateLimited):
            ended = Ended.REFUSED
        elif error.blames_request:
            ended = Ended.REJECTED
        elif error.retryable:
            ended = Ended.FAILED
        else:
            ended = Ended.FATAL
    elif isinstance(error, OSError | TimeoutError):
        ended = Ended.FAILED  # TimeoutError is an OSError; named since both are meant
    else:
        ended = Ended.FATAL
    return AttemptOutcome(ended, error, until, began, lost or isinstance(error, PeerLost))
