"""The messages of operators to any actor, to supervisors and to the node. Pure."""

from __future__ import annotations

from enum import StrEnum

from supervision.contracts.contract import ControlMessage, Value

# ---- every actor answers these, to processes of its own node and to operators only


class ActorState(StrEnum):
    """What an actor does with requests."""

    STARTING = "starting"  # they wait until it has started
    RUNNING = "running"  # it takes them
    SUSPENDED = "suspended"  # they wait: an operator wants it so
    STOPPING = "stopping"  # it refuses them, and ends
    DRAINING = "draining"  # it turns new ones away, and what runs finishes


class LinkState(StrEnum):
    """What there is between an actor and a process that it talks to."""

    CONNECTED = "connected"  # a connection
    DIALING = "dialing"  # one is being made
    WAITING = "waiting"  # none, until there is something to say
    GONE = "gone"  # none any more: the process has ended, or can't be reached


class Inspect(ControlMessage, frozen=True):
    """→ any actor: how it stands, as `Inspected`."""


class PeerState(Value, frozen=True):
    """A process that an actor talks to. `queued` are bytes on their way to it; `serving` counts its
    requests that this actor works on."""

    address: str
    pid: int
    state: LinkState
    queued: int = 0
    serving: int = 0


class Inspected(ControlMessage, frozen=True):
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


class ShowStats(ControlMessage, frozen=True):
    """→ any actor: the figures of its process, as `Stats`."""


class Figure(Value, frozen=True):
    """One figure of Prometheus' text format, by name and sorted labels; `kind` is counter, gauge
    or histogram."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    kind: str = ""


class Stats(ControlMessage, frozen=True):
    """What one process adds to the `/metrics` of its node."""

    figures: tuple[Figure, ...]


class SetLogLevel(ControlMessage, frozen=True):
    """→ any actor, asked: its process logs from `level` (DEBUG … CRITICAL) on until it ends;
    answered with a `LogLevel`."""

    level: str


class LogLevel(ControlMessage, frozen=True):
    """The level in force, and the one before."""

    level: str
    before: str


class Suspend(ControlMessage, frozen=True):
    """→ any actor, asked: take no new requests, but for those of operators and supervisors; they
    wait in the mailbox, which is bounded. What runs goes on. Answered with a `Standing`."""


class Resume(ControlMessage, frozen=True):
    """→ any actor, asked: take what waits, and all that comes. Answered with a `Standing`."""


class Standing(ControlMessage, frozen=True):
    """What an actor does with requests now."""

    state: ActorState


class Verb(StrEnum):
    """What an operator may have a supervisor do with a child."""

    RESTART = "restart"  # stop it in order if it runs, and start it, with its strategy's group
    STOP = "stop"  # stop it in order; it stays in the tree, and down
    KILL = "kill"  # SIGKILL its process; it is started again as its spec says


class OperateChild(ControlMessage, frozen=True):
    """→ supervisor, asked: do `verb` with the child `id`. Answered with `ChildReady` when it runs
    anew, or `ChildStopped` when its process is gone, or has been killed."""

    id: str
    verb: str


class ShowSpec(ControlMessage, frozen=True):
    """→ supervisor: what the child `id` was made from, as `SpecShown`."""

    id: str


class SpecShown(ControlMessage, frozen=True):
    """The fields of a `ChildSpec`, in words."""

    fields: tuple[tuple[str, str], ...]


class WriteAudit(ControlMessage, frozen=True):
    """Operator on another machine → root, asked: write this into the node's audit log; see
    `supervision.telemetry.audit`. Answered with nothing, when it is on the disk."""

    id: str
    command: str
    arguments: tuple[str, ...]
    outcome: str
