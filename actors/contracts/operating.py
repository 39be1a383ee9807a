"""The messages of operators to the actors of inference: breakers, sessions, draining. Pure."""

from __future__ import annotations

from supervision.contracts import ControlMessage, Value


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


class ShowBreakers(ControlMessage, frozen=True):
    """→ scheduler: its `BreakerStates`."""


class BreakerStates(ControlMessage, frozen=True):
    """All breakers that a scheduler has, by worker and model. `workers` is what operators have said
    of workers as a whole; no `model_ref` is given there."""

    breakers: tuple[BreakerState, ...]
    workers: tuple[BreakerState, ...] = ()


class SetBreaker(ControlMessage, frozen=True):
    """→ scheduler, asked: from now on this breaker is in `mode` (as in `BreakerState`); answered
    with the `BreakerStates` concerned. Without a `model_ref`: all those of the worker, and those of
    the models that it has yet to load. Back in automatic mode a breaker begins closed. It is
    written down, so a scheduler that restarts knows it; other schedulers hear of it when they
    start."""

    worker_id: str
    mode: str
    model_ref: str = ""


class KeepBreakers(ControlMessage, frozen=True):
    """Scheduler → reservation, asked: write down the modes of these breakers, which an operator
    has set; without a `model_ref` it is the word about all of a worker, and those about its models
    are forgotten. So is an automatic one that says nothing new. Answered with the `BreakerStates`
    of all that are written down. Without any it only asks."""

    breakers: tuple[BreakerState, ...] = ()


class Drain(ControlMessage, frozen=True):
    """→ worker or front door, asked: turn new requests away while what runs finishes, or take
    them again (`on` false). Answered with a `Standing`."""

    on: bool = True


class ShowSessions(ControlMessage, frozen=True):
    """→ gateway: its `SessionStates`."""


class SessionState(Value, frozen=True):
    """A request that a gateway holds, or is done with. `state` is placing, running, left (nobody
    listens just now) or `done: OUTCOME`; `request_id` is what the client called it; `age_s` counts
    from its beginning, or from its end if it is done."""

    job_id: str
    tenant_id: str
    request_id: str
    model_ref: str
    state: str
    worker_id: str = ""
    listeners: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    age_s: float = 0.0
    explicit: bool = False


class SessionStates(ControlMessage, frozen=True):
    """The sessions of one gateway, oldest first, at most as many as were asked for; `total` says
    how many there are."""

    sessions: tuple[SessionState, ...]
    total: int


class FindRequest(ControlMessage, frozen=True):
    """→ gateway: what it knows of a request, by the client's id of it, its job's id, or its
    retry token; `SessionStates` with the newest first, also of some that it is done with."""

    request_id: str


class ShowPolicies(ControlMessage, frozen=True):
    """→ gateway: the `PolicyStates` of a version, of all versions of a name, or of all models
    ("")."""

    model_ref: str = ""


class PolicyState(Value, frozen=True):
    """One policy that the requests to a model pass, at one gateway: its name, its options, whether
    the model's own policy says these (`own`) or `[policies]` does, and how it stands, in words."""

    model_ref: str
    name: str
    options: tuple[tuple[str, float], ...] = ()
    own: bool = False
    state: str = ""


class PolicyStates(ControlMessage, frozen=True):
    """By model, and in the order in which a request passes them; at most as many as were asked
    for, of `total`."""

    policies: tuple[PolicyState, ...]
    total: int
