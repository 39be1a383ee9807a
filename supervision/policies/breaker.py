"""A circuit breaker: what mostly fails is left alone for a while, and then tried with one call.

::

    CLOSED ── half of ≥ 10 calls in 30 s failed ──▶ OPEN ── 5 s … 60 s later ──▶ HALF_OPEN
      ▲                                              ▲                              │ one probe
      └───────────── the probe was answered ─────────┼──────────────────────────────┤
                                                     └─────── the probe failed ─────┘

Source: Nygard, Release It!, 2007; the defaults' shape is Polly's `CircuitBreakerStrategyOptions`.

Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from supervision.errors import Unavailable
from supervision.policies.outcome import AttemptOutcome, Ended
from supervision.policies.policy import DONE, NEVER, Done, Go, Refuse
from supervision.policies.recent import Recent


class BreakerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Opens when `ratio` of the last calls failed: of the last `most`, if they ended within
    `window_s` and are `calls` at least. Stays open for `open_s`, and twice as long each time it
    opens again, up to `max_open_s`, until it was closed for a whole window. A probe that isn't
    settled within `probe_s` is taken for lost.

    Raises:
        ValueError: a value is out of its range.
    """

    calls: int = 10
    most: int = 100
    ratio: float = 0.5
    window_s: float = 30.0
    open_s: float = 5.0
    max_open_s: float = 60.0
    probe_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.calls <= self.most:
            raise ValueError(f"breaker: 1 ≤ calls ({self.calls}) ≤ most ({self.most}) must hold")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"breaker: ratio is {self.ratio}; it must be above 0 and at most 1")
        if not 0 < self.open_s <= self.max_open_s < NEVER:
            raise ValueError(
                f"breaker: 0 < open_s ({self.open_s}) ≤ max_open_s ({self.max_open_s}) must hold"
            )
        if not self.window_s > 0 or not self.probe_s > 0:
            raise ValueError("breaker: window_s and probe_s must be above 0")


class Mode(StrEnum):
    """Who decides."""

    AUTOMATIC = "automatic"  # the outcomes
    FORCED_OPEN = "forced_open"  # an operator: nothing passes
    DISABLED = "disabled"  # an operator: everything passes


class State(StrEnum):
    """What it does at the moment, in automatic mode."""

    CLOSED = "closed"  # all calls pass
    OPEN = "open"  # none does
    HALF_OPEN = "half_open"  # one does, and decides


DEFAULT: Final = BreakerOptions()


class Breaker:
    """Shared by all calls to one thing that can break: a worker's model, a database.

    `enter` and `leave` are the whole machine; a `BreakerGuard` is one call's use of it. What was
    admitted before the breaker last changed says nothing about how things are now: its outcome
    isn't counted, and it can't be taken for the probe's.
    """

    __slots__ = (
        "_closed_at",
        "_opened",
        "_options",
        "_probe_at",
        "_recent",
        "_reopen_at",
        "epoch",
        "failed_at",
        "mode",
        "passing",
        "state",
    )

    def __init__(self, options: BreakerOptions = DEFAULT) -> None:
        self._options = options
        self._recent = Recent(options.most, options.window_s)
        self.mode = Mode.AUTOMATIC
        self.state = State.CLOSED
        self.passing = True
        """Does everything pass? A plain attribute, for whoever looks at many of them."""
        self.epoch = 1
        """Grows with every change, and with every probe; what `enter` gives out."""
        self.failed_at = -NEVER
        """When a call failed last, since the last change that wasn't an opening."""
        self._opened = 0  # how often in a row
        self._closed_at = -NEVER
        self._reopen_at = -NEVER
        self._probe_at = -NEVER  # since when a probe is under way; -inf: none is

    def passes(self, now: float) -> bool:
        """Would `enter` let a call pass? Changes nothing."""
        if self.mode is not Mode.AUTOMATIC or self.state is State.CLOSED:
            return self.mode is not Mode.FORCED_OPEN
        if self.state is State.OPEN:
            return now >= self._reopen_at
        return now - self._probe_at >= self._options.probe_s

    def until(self, now: float) -> float:
        """When a call may pass, at the earliest; infinite when an operator has to say so."""
        if self.mode is Mode.FORCED_OPEN:
            return NEVER
        return max(now, self._reopen_at) if self.state is State.OPEN else now

    def enter(self, now: float) -> int:
        """A call wants to pass. 0: it may not. Else a ticket, for `leave`."""
        if self.passing:
            return self.epoch
        if not self.passes(now):
            return 0
        self.state = State.HALF_OPEN
        self._probe_at = now
        self.epoch += 1
        return self.epoch

    def leave(self, ticket: int, ended: Ended, now: float) -> None:
        """A call that had passed is over. The ticket of a probe counts once; others are the
        business of their guard."""
        if ticket != self.epoch or self.mode is Mode.FORCED_OPEN:
            return
        bad = ended is Ended.FAILED or ended is Ended.FATAL
        if not bad and ended is not Ended.COMPLETED and ended is not Ended.REJECTED:
            if self.state is State.HALF_OPEN:  # the probe came to nothing: the next call is one
                self._probe_at = -NEVER
                self.epoch += 1
            return
        if bad:
            self.failed_at = now
        if self.state is State.CLOSED:
            recent = self._recent
            recent.add(now, bad)
            if bad and self.mode is Mode.AUTOMATIC:
                calls = len(recent)
                if calls >= self._options.calls and recent.bad >= self._options.ratio * calls:
                    self._open(now)
        elif self.state is State.HALF_OPEN:
            if bad:
                self._open(now)
            else:
                self._close(now)

    def set(self, mode: Mode, now: float) -> None:
        """An operator's word. Back in automatic mode it begins closed, and knows nothing."""
        if mode is self.mode:
            return
        self.mode = mode
        self._opened = 0
        self._close(now)

    def renew(self, now: float) -> None:
        """What it stands for was replaced by a new one, about which nothing is known. What an
        operator has said stays said."""
        if self.mode is Mode.AUTOMATIC:
            self._close(now)

    def counts(self, now: float) -> tuple[int, int]:
        """(the last calls that ended while it was closed, those of them that failed)."""
        self._recent.forget(now)
        return len(self._recent), self._recent.bad

    def _open(self, now: float) -> None:
        options = self._options
        if self.state is State.CLOSED and now - self._closed_at >= options.window_s:
            self._opened = 0
        self._opened += 1
        self._reopen_at = now + min(
            options.max_open_s, options.open_s * 2.0 ** min(self._opened - 1, 60)
        )
        self._change(State.OPEN)

    def _close(self, now: float) -> None:
        self._closed_at = now
        self.failed_at = -NEVER
        self._change(State.CLOSED)

    def _change(self, state: State) -> None:
        self.state = state
        self.passing = self.mode is Mode.DISABLED or (
            self.mode is Mode.AUTOMATIC and state is State.CLOSED
        )
        self.epoch += 1
        self._probe_at = -NEVER
        self._recent.clear()

    def begin(self) -> BreakerGuard:
        return BreakerGuard(self)


class BreakerGuard:
    __slots__ = ("_breaker", "_ticket")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._ticket = 0

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        breaker = self._breaker
        if not self._ticket:
            self._ticket = breaker.enter(now)
            if not self._ticket:
                return self._refuse(now)
        return Go(until)

    def settle(self, outcome: AttemptOutcome, now: float) -> Done:
        ticket, self._ticket = self._ticket, 0
        if ticket:
            self._breaker.leave(ticket, outcome.ended, now)
        return DONE

    def _refuse(self, now: float) -> Refuse:
        until = self._breaker.until(now)
        if until == NEVER:
            return Refuse(until, Unavailable("an operator has switched this off for now"))
        return Refuse(
            until,
            Unavailable(
                "most calls to it failed lately, so it is left alone for a while",
                retry_after_s=max(until - now, 0.1),
            ),
        )
