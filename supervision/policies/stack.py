"""Policies in an explicit order, and one call's way through them.

What another order would do stands in docs/policies.md, in numbers.

Pure.
"""

from __future__ import annotations

from typing import cast

from supervision.errors import Unavailable
from supervision.policies.bulkhead import Bulkhead
from supervision.policies.deadline import DeadlineGuard
from supervision.policies.outcome import CANCELLED, AttemptOutcome, Ended, outcome_of
from supervision.policies.policy import DONE, NEVER, Again, Done, GiveUp, Go, Guard, Policy, Refuse
from supervision.policies.rate import Rate
from supervision.policies.retry import RetryGuard
from supervision.policies.timeout import Timeout


class Stack:
    """An ordered list of policies, outermost first; shared by all calls to one target."""

    __slots__ = ("_begin", "_lasting", "policies")

    def __init__(self, *policies: Policy) -> None:
        self.policies = policies
        timeouts = (at for at, policy in enumerate(policies) if type(policy) is Timeout)
        self._lasting = next(timeouts, len(policies))
        self._begin = tuple(policy.begin for policy in policies)

    def counting(self) -> Stack:
        """The same for calls that were let in before, by another who is gone: what bounds how many
        may begin counts them, and refuses none."""
        return Stack(
            *(
                policy.counting() if isinstance(policy, Rate | Bulkhead) else policy
                for policy in self.policies
            )
        )

    def begin(self, until: float = NEVER) -> Call:
        """A call that its caller waits for until `until`."""
        return Call([begin() for begin in self._begin], until, self._lasting)


class Call:
    """One call's way through a stack: a state machine like its guards.

    A guard that refuses settles those outside of it, innermost first, as an attempt that was
    refused; one that wants another attempt stops there, and those inside of it have been
    settled. So each `Go` of each guard is settled exactly once, whatever happens.
    """

    __slots__ = ("_depth", "_guards", "_last", "_lasting", "_limits", "_since", "running")

    def __init__(self, guards: list[Guard], until: float, lasting: int) -> None:
        self._guards = guards
        self._lasting = lasting  # so many are outside of the attempt's timeout
        self._limits = [until] * (len(guards) + 1)
        self._depth = 0  # so many guards, from outside, have let it in and aren't settled
        self._last: Done | GiveUp | None = None
        self._since = 0.0  # when the attempt under way began
        self.running = False
        """Is an attempt under way?"""

    def admit(self, now: float) -> Go | Again | GiveUp:
        """May an attempt begin: at first, and at the time that an `Again` named?

        Raises:
            RuntimeError: one is under way, or the call is over. That is a bug of the driver.
        """
        if self.running or self._last is not None:
            raise RuntimeError("a call was admitted while it ran, or after its end")
        guards, limits = self._guards, self._limits
        depth = self._depth
        count = len(guards)
        while depth < count:
            verdict = guards[depth].admit(now, limits[depth])
            if type(verdict) is not Go:
                self._depth = depth
                refused = cast("Refuse", verdict)
                outcome = outcome_of(refused.error)
                if outcome.ended is not Ended.FATAL:  # a refusal, whatever class its error has
                    outcome = AttemptOutcome(Ended.REFUSED, refused.error, refused.until)
                return cast("Again | GiveUp", self._outwards(outcome, now))
            depth += 1
            limits[depth] = verdict.until
        self._depth = count
        self._since = now
        self.running = True
        return Go(limits[count])

    def settle(self, outcome: AttemptOutcome, now: float) -> Done | Again | GiveUp:
        """The attempt has ended. The second time, or after `cancel`, it says what it said."""
        if not self.running:
            return self._last or DONE
        self.running = False
        return self._outwards(outcome, now)

    def expire(self, now: float, *, began: bool = False) -> Done | Again | GiveUp:
        """The attempt was broken off when the time of its `Go` was up.

        Where the deadline left it less than half of an attempt's time, that isn't the target's
        fault. Else a call that has waited for a breaker to open would be its probe, for the last
        milliseconds of its deadline, and keep it open.
        """
        ended = Ended.FAILED
        for at, guard in enumerate(self._guards):
            if type(guard) is Timeout and now - self._since < 0.5 * guard.attempt_s:
                ended = Ended.CUT_SHORT if self._limits[at] == self._limits[-1] else ended
        error = Unavailable("there was no answer in time")
        return self.settle(AttemptOutcome(ended, error, began=began), now)

    def prolong(self, until: float) -> None:
        """The caller waits until then, and not as short as it said. What policies bound by
        themselves stays bounded."""
        limits = self._limits
        if until <= limits[0]:
            return
        before, limits[0] = limits[0], until
        for at, guard in enumerate(self._guards[: self._depth], 1):
            bound, limit = limits[at] < before, limits[at - 1]
            before = limits[at]
            if isinstance(guard, DeadlineGuard | RetryGuard):
                limits[at] = guard.prolong(limit)
            elif type(guard) is not Timeout:
                limits[at] = limit
            elif not bound:
                limits[at] = min(limit, self._since + guard.attempt_s)

    def cancel(self, now: float) -> None:
        """Nobody waits any more. Safe at any time, and twice."""
        if self._last is None:
            self.running = False
            for guard in reversed(self._guards[: self._depth]):
                guard.settle(CANCELLED, now)
            self._last = DONE

    @property
    def lasting_until(self) -> float:
        """By when all of the call has to be over, once it has begun to answer: what the policies
        outside of the attempt's timeout allow."""
        return self._limits[self._lasting]

    def _outwards(self, outcome: AttemptOutcome, now: float) -> Done | Again | GiveUp:
        guards = self._guards
        for at in range(self._depth - 1, -1, -1):
            verdict = guards[at].settle(outcome, now)
            if verdict is DONE:
                continue
            if type(verdict) is Again:
                self._depth = at
                return verdict
            if type(verdict) is GiveUp and verdict.error is not outcome.error:
                outcome = outcome_of(verdict.error, now, began=outcome.began)
        self._depth = 0
        self._last = DONE if outcome.error is None else GiveUp(outcome.error)
        return self._last
