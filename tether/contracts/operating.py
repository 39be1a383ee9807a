"""What operators ask of a node, and tell it."""

from __future__ import annotations

from tether.contracts.contract import Contract, Value


class BreakerState(Value, frozen=True):
    """The breaker of one worker's model, at one scheduler.

    `mode` is automatic, forced_open or disabled; `state` is closed, open or half_open, and means
    something in automatic mode only. Of the last `calls` that said something about the worker,
    `failed` failed. `until_s` are the seconds until a call may pass: 0 at once, -1 when an
    operator has to say so.
    """

    worker_id: str
    model_ref: str
    mode: str
    state: str
    calls: int = 0
    failed: int = 0
    until_s: float = 0.0


class ShowBreakers(Contract, frozen=True):
    """→ scheduler: its `BreakerStates`."""


class BreakerStates(Contract, frozen=True):
    """All breakers that a scheduler has, by worker and model."""

    breakers: tuple[BreakerState, ...]


class SetBreaker(Contract, frozen=True):
    """→ scheduler, asked: from now on this breaker is in `mode` (as in `BreakerState`); answered
    with the `BreakerStates` concerned. Without a `model_ref`: all those of the worker. Back in
    automatic mode a breaker begins closed. A scheduler that is restarted has forgotten it."""

    worker_id: str
    mode: str
    model_ref: str = ""
