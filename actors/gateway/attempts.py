"""The verdict on a worker from how an attempt ended. Whether another one follows is for the
policies to say; see `supervision.policies`. Pure."""

from __future__ import annotations

from supervision.errors import DeadlineExceeded, PeerLost, TetherError
from supervision.policies import Ended, outcome_of

HANGS_S = 10.0  # without a first chunk: longer than that isn't the deadline's fault alone


def verdict(
    error: TetherError | None, *, waited_s: float, began: bool, cold: bool = False
) -> tuple[bool, bool]:
    """What the end of an attempt says about its worker: (`ok`, `neutral`) of a `Finished`.

    Args:
        waited_s: since the worker was asked.
        began: the first chunk had come.
        cold: the worker doesn't answer for the model yet; loading one takes a while.
    """
    if error is None:
        return True, False
    if isinstance(error, DeadlineExceeded):
        hung = not began and not cold and waited_s >= HANGS_S
        return not hung, not hung
    if isinstance(error, PeerLost):  # the roster knows, and whoever starts in its place is new
        return False, True
    ended = outcome_of(error).ended
    if ended is Ended.REFUSED:
        return False, True
    if ended is Ended.CANCELLED:
        return True, True
    return ended is Ended.REJECTED, False
