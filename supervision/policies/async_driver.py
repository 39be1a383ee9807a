"""The driver of policies around coroutines: the clock, the pauses, and the breaking off."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from supervision.policies.outcome import COMPLETED, outcome_of
from supervision.policies.policy import NEVER, Again, Done, GiveUp, Go
from supervision.policies.stack import Stack

T = TypeVar("T")


class Attempt:
    """What an operation is told: that it is the `number`th attempt (from 1), and has to be over
    at `until`, on the loop's clock. It calls `began` when its caller has seen something of the
    answer; from then on it isn't retried."""

    __slots__ = ("has_begun", "number", "until")

    def __init__(self, number: int, until: float) -> None:
        self.number = number
        self.until = until
        self.has_begun = False

    def began(self) -> None:
        self.has_begun = True

    def remaining_s(self) -> float:
        """Seconds left, as they are handed on to others; infinite without a limit."""
        if self.until == NEVER:
            return math.inf
        return max(0.0, self.until - asyncio.get_running_loop().time())


Operation = Callable[[Attempt], Awaitable[T]]
OnAgain = Callable[[Exception, float], None]


async def run(
    stack: Stack, operation: Operation[T], *, until: float = NEVER, on_again: OnAgain | None = None
) -> T:
    """The result of `operation`, tried as `stack` says. Runs in the caller's task.

    Args:
        until: when the caller gives up by itself, on the loop's clock.
        on_again: told why an attempt failed, and how many seconds the next one waits.

    Raises:
        what the operation raised last, or what a policy says in its place.
    """
    clock = asyncio.get_running_loop().time
    call = stack.begin(until)
    number = 0
    verdict: Go | Done | Again | GiveUp
    try:
        while True:
            verdict = call.admit(clock())
            failed: Exception | None = None
            if type(verdict) is Go:
                number += 1
                attempt = Attempt(number, verdict.until)
                scope = asyncio.timeout_at(None if attempt.until == NEVER else attempt.until)
                try:
                    async with scope:
                        result = await operation(attempt)
                except Exception as error:
                    failed = error
                    now = clock()
                    began = attempt.has_begun
                    if scope.expired():
                        verdict = call.expire(now, began=began)
                    else:
                        verdict = call.settle(outcome_of(error, now, began=began), now)
                else:
                    call.settle(COMPLETED, clock())
                    return result
            if type(verdict) is not Again:
                raise _sorry(verdict, failed)
            await _pause(verdict, failed, clock(), on_again)
    finally:
        call.cancel(clock())


def _sorry(verdict: Go | Done | Again | GiveUp, failed: Exception | None) -> Exception:
    if type(verdict) is not GiveUp:  # the operation raised `Cancelled`, which nobody answers
        assert failed is not None
        return failed
    error = verdict.error
    if failed is not None and error is not failed and error.__cause__ is None:
        error.__cause__ = failed
    return error


async def _pause(
    verdict: Again, failed: Exception | None, now: float, on_again: OnAgain | None
) -> None:
    pause_s = max(0.0, verdict.at - now)
    if on_again is not None and failed is not None:
        on_again(failed, pause_s)
    await asyncio.sleep(pause_s)
