"""Whether a request that went wrong on a worker is tried again, and where not."""

from __future__ import annotations

from tether.errors import Draining, Overloaded, PeerLost, TetherError, WorkerLost


class Attempts:
    """The attempts of one request.

    A *refusal* (`Overloaded`, `Draining`) means that nothing began: it costs no attempt, only
    one of `refusals`. Anything retryable that broke off costs one of `limit`. All others are
    the request's own fault, or a bug that would repeat itself, and end it.

    Args:
        limit: attempts in which something began, the first included.
        refusals: how often workers may send it away.
        deadline: a time on the caller's clock.
    """

    __slots__ = ("_limit", "_refusals", "avoid", "deadline", "failed", "number", "refused")

    def __init__(self, deadline: float, limit: int = 3, refusals: int = 8) -> None:
        self.deadline = deadline
        self.number = 1
        self.failed = 0
        self.refused = 0
        self.avoid: tuple[str, ...] = ()
        self._limit = limit
        self._refusals = refusals

    def again(self, error: TetherError, worker: str, now: float) -> bool:
        """Try again, on another worker than `worker`? If so, `number` and `avoid` are those of
        the next attempt."""
        if isinstance(error, Overloaded | Draining):
            self.refused += 1
            possible = self.refused <= self._refusals
        elif isinstance(error, PeerLost | WorkerLost) or error.retryable:
            self.failed += 1
            possible = self.failed < self._limit
        else:
            return False
        if not possible or now >= self.deadline:
            return False
        self.number += 1
        if worker and worker not in self.avoid:
            self.avoid = (*self.avoid, worker)
        return True
