"""Whether a request that went wrong on a worker is tried again, and where not."""

from __future__ import annotations

from supervision.policies import Budget, Ended, outcome_of
from tether.errors import (
    DeadlineExceeded,
    Draining,
    Overloaded,
    PeerLost,
    TetherError,
    WorkerLost,
)

HANGS_S = 10.0  # without a first chunk: longer than that isn't the deadline's fault alone


class Attempts:
    """The attempts of one request.

    A *refusal* (`Overloaded`, `Draining`) means that nothing began: it costs no attempt, only
    one of `refusals`. Anything retryable that broke off costs one of `limit`. All others are
    the request's own fault, or a bug that would repeat itself, and end it.

    A budget is charged for each attempt after a failure, but for the first resumption of a
    request whose worker is gone: all that ran there come at once then, and they are all that
    ran there, so they can't multiply.

    Args:
        limit: attempts in which something began, the first included.
        refusals: how often workers may send it away.
        deadline: a time on the caller's clock.
        budget: shared with the other requests of this gateway.
    """

    __slots__ = (
        "_budget",
        "_limit",
        "_refusals",
        "_resumed",
        "avoid",
        "deadline",
        "failed",
        "number",
        "refused",
    )

    def __init__(
        self, deadline: float, limit: int = 3, refusals: int = 8, budget: Budget | None = None
    ) -> None:
        self.deadline = deadline
        self.number = 1
        self.failed = 0
        self.refused = 0
        self.avoid: tuple[str, ...] = ()
        self._limit = limit
        self._refusals = refusals
        self._resumed = False
        self._budget = budget

    def again(self, error: TetherError, worker: str, now: float, *, lost: bool = False) -> bool:
        """Try again, on another worker than `worker`? If so, `number` and `avoid` are those of
        the next attempt. `lost`: the worker is gone, or has forgotten it."""
        charged = False
        if isinstance(error, Overloaded | Draining):
            self.refused += 1
            possible = self.refused <= self._refusals
        elif isinstance(error, PeerLost | WorkerLost) or error.retryable:
            self.failed += 1
            possible = self.failed < self._limit
            charged = self._resumed or not (lost or isinstance(error, PeerLost))
            self._resumed = True
        else:
            return False
        if not possible or now >= self.deadline:
            return False
        if charged and self._budget is not None and not self._budget.withdraw(now):
            return False
        self.number += 1
        if worker and worker not in self.avoid:
            self.avoid = (*self.avoid, worker)
        return True

    def unanswered(self, now: float) -> bool:
        """Nobody said within our patience where it shall run: ask again? It may have been reserved
        all the same, which whoever asks again under the claim of before finds."""
        return now < self.deadline and self.outpaced()

    def outpaced(self) -> bool:
        """Another asker was faster, and nothing began: try again? It counts as a refusal."""
        self.refused += 1
        self.number += 1
        return self.refused <= self._refusals


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
