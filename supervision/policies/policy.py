"""The protocol of a policy: a guard that each attempt of a call passes, inwards and outwards.

A *policy* is made once and shared by all calls; it holds what they share (a window of outcomes,
a count, a budget). For each call it gives a *guard*, a small state machine::

    admit(now, until) → Go | Refuse            on the way in, once an attempt
    settle(outcome, now) → Done | Again | GiveUp   on the way out, once for every Go

`settle` may be called twice for one `Go`; the second time changes nothing. Times are on the
caller's clock, in seconds, and never go back. Nobody here sleeps, reads a clock or draws a
number: that is the business of the drivers.

Pure.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import msgspec

from supervision.policies.outcome import AttemptOutcome

NEVER: Final = math.inf


class Go(msgspec.Struct, frozen=True, gc=False):
    """It may begin, and has to be over at `until`."""

    until: float = NEVER


class Refuse(msgspec.Struct, frozen=True):  # collected: errors lead anywhere
    """It may not begin. Before `until` asking again is pointless; `error` says why."""

    until: float
    error: Exception


class Done(msgspec.Struct, frozen=True, gc=False):
    """The outcome stands."""


class Again(msgspec.Struct, frozen=True, gc=False):
    """At `at` the call is to be admitted again, from this guard inwards."""

    at: float


class GiveUp(msgspec.Struct, frozen=True):  # collected: errors lead anywhere
    """The call fails with `error`, which may be another than the attempt's."""

    error: Exception


GO: Final = Go()
DONE: Final = Done()


class Guard(Protocol):
    """One call's way through one policy."""

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        """An attempt wants to begin, and the policies outside give it until `until`."""
        ...

    def settle(self, outcome: AttemptOutcome, now: float) -> Done | Again | GiveUp:
        """The attempt that was admitted has ended. Changes nothing when none is under way."""
        ...


class Policy(Protocol):
    """Shared by all calls."""

    def begin(self) -> Guard:
        """The guard of one call. A policy that keeps nothing about a call is its own guard."""
        ...
