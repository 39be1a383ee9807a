"""What operators ask of a node, and tell it."""

from __future__ import annotations

from enum import StrEnum

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
    """All breakers that a scheduler has, by worker and model. `workers` is what operators have said
    of workers as a whole; no `model_ref` is given there."""

    breakers: tuple[BreakerState, ...]
    workers: tuple[BreakerState, ...] = ()


class SetBreaker(Contract, frozen=True):
    """→ scheduler, asked: from now on this breaker is in `mode` (as in `BreakerState`); answered
    with the `BreakerStates` concerned. Without a `model_ref`: all those of the worker, and those of
    the models that it has yet to load. Back in automatic mode a breaker begins closed. It is
    written down, so a scheduler that restarts knows it; other schedulers hear of it when they
    start."""

    worker_id: str
    mode: str
    model_ref: str = ""


class KeepBreakers(Contract, frozen=True):
    """Scheduler → reservation, asked: write down the modes of these breakers, which an operator
    has set; without a `model_ref` it is the word about all of a worker, and those about its models
    are forgotten. So is an automatic one that says nothing new. Answered with the `BreakerStates`
    of all that are written down. Without any it only asks."""

    breakers: tuple[BreakerState, ...] = ()


# ---- every actor answers these, to processes of its own node and to operators only


class ActorState(StrEnum):
    """What an actor does with requests."""

    STARTING = "starting"  # they wait until it has started
    RUNNING = "running"  # it takes them
    SUSPENDED = "suspended"  # they wait: an operator wants it so
    STOPPING = "stopping"  # it refuses them, and ends
    DRAINING = "draining"  # it turns new ones away, and what runs finishes


class Link(StrEnum):
    """What there is between an actor and a process that it talks to."""

    CONNECTED = "connected"  # a connection
    DIALING = "dialing"  # one is being made
    WAITING = "waiting"  # none, until there is something to say
    GONE = "gone"  # none any more: the process has ended, or can't be reached


class Inspect(Contract, frozen=True):
    """→ any actor: how it stands, as `Inspected`."""


class PeerState(Value, frozen=True):
    """A process that an actor talks to. `queued` are bytes on their way to it; `serving` counts its
    requests that this actor works on."""

    address: str
    pid: int
    state: Link
    queued: int = 0
    serving: int = 0


class Inspected(Contract, frozen=True):
    """One actor, in `state` for `since_s` where that is known; `actor` is its class. `answers` are
    the contracts that it takes. `handlers` counts what it works on by the method that does, at most
    `max_handlers` in all; `held` requests wait in its mailbox. `asks` and `streams` count what it
    waits for itself. `notes` are a kind's own figures. `cpu_s` and `memory_bytes` (resident) are of
    its process."""

    actor: str
    address: str
    pid: int
    state: ActorState
    path: str = ""
    since_s: float = 0.0
    log_level: str = ""
    answers: tuple[str, ...] = ()
    handlers: tuple[tuple[str, int], ...] = ()
    max_handlers: int = 0
    held: int = 0
    background: tuple[tuple[str, int], ...] = ()
    asks: int = 0
    streams: int = 0
    peers: tuple[PeerState, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    cpu_s: float = 0.0
    memory_bytes: int = 0


class ShowStats(Contract, frozen=True):
    """→ any actor: the figures of its process, as `Stats`."""


class Figure(Value, frozen=True):
    """One figure of Prometheus' text format, by name and sorted labels; `kind` is counter, gauge
    or histogram."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    kind: str = ""


class Stats(Contract, frozen=True):
    """What one process adds to the `/metrics` of its node."""

    figures: tuple[Figure, ...]


class SetLogLevel(Contract, frozen=True):
    """→ any actor, asked: its process logs from `level` (DEBUG … CRITICAL) on until it ends;
    answered with a `LogLevel`."""

    level: str


class LogLevel(Contract, frozen=True):
    """The level in force, and the one before."""

    level: str
    before: str


class Suspend(Contract, frozen=True):
    """→ any actor, asked: take no new requests, but for those of operators and supervisors; they
    wait in the mailbox, which is bounded. What runs goes on. Answered with a `Standing`."""


class Resume(Contract, frozen=True):
    """→ any actor, asked: take what waits, and all that comes. Answered with a `Standing`."""


class Standing(Contract, frozen=True):
    """What an actor does with requests now."""

    state: ActorState


class Drain(Contract, frozen=True):
    """→ worker or front door, asked: turn new requests away while what runs finishes, or take
    them again (`on` false). Answered with a `Standing`."""

    on: bool = True


class ShowSessions(Contract, frozen=True):
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


class SessionStates(Contract, frozen=True):
    """The sessions of one gateway, oldest first, at most as many as were asked for; `total` says
    how many there are."""

    sessions: tuple[SessionState, ...]
    total: int


class FindRequest(Contract, frozen=True):
    """→ gateway: what it knows of a request, by the client's id of it, its job's id, or its
    retry token; `SessionStates` with the newest first, also of some that it is done with."""

    request_id: str


class ShowPolicies(Contract, frozen=True):
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


class PolicyStates(Contract, frozen=True):
    """By model, and in the order in which a request passes them; at most as many as were asked
    for, of `total`."""

    policies: tuple[PolicyState, ...]
    total: int


class Verb(StrEnum):
    """What an operator may have a supervisor do with a child."""

    RESTART = "restart"  # stop it in order if it runs, and start it, with its strategy's group
    STOP = "stop"  # stop it in order; it stays in the tree, and down
    KILL = "kill"  # SIGKILL its process; it is started again as its spec says


class OperateChild(Contract, frozen=True):
    """→ supervisor, asked: do `verb` with the child `id`. Answered with `ChildReady` when it runs
    anew, or `ChildStopped` when its process is gone, or has been killed."""

    id: str
    verb: str


class ShowSpec(Contract, frozen=True):
    """→ supervisor: what the child `id` was made from, as `SpecShown`."""

    id: str


class SpecShown(Contract, frozen=True):
    """The fields of a `ChildSpec`, in words."""

    fields: tuple[tuple[str, str], ...]


class WriteAudit(Contract, frozen=True):
    """Operator on another machine → root, asked: write this into the node's audit log; see
    `tether.telemetry.audit`. Answered with nothing, when it is on the disk."""

    id: str
    command: str
    arguments: tuple[str, ...]
    outcome: str
