"""The messages between the rosters of a cluster: announcements, and orders to other nodes.

An `Announcement` is what one node says at one moment, on several topics at once:

- `tether/presence/<region>`: a `Presence`, the node and its workers;
- `tether/models/<model>/<version>/<region>`: an `Offer` for each model that its workers answer for;
- `tether/control/<region>`: an `Order` that others shall carry out.

It is signed as a whole with the node's key, so that one signature and one sequence number stand
for all of it. An `Announce` carries it from roster to roster.

Pure.
"""

from __future__ import annotations

import msgspec

from actors.contracts.fleet import HealthReport
from supervision.contracts.contract import Contract, Value


class Gpu(Value, frozen=True):
    """One GPU of a node, as its driver says. `load` is 0 to 1."""

    name: str
    memory_bytes: int = 0
    used_bytes: int = 0
    load: float = 0.0


class Hardware(Value, frozen=True):
    """What a node is made of, and how much of it is left now; 0 where the system doesn't say.
    `load` is the average number of processes that want to run (uptime(1), one minute)."""

    cores: int = 0
    load: float = 0.0
    memory_bytes: int = 0
    free_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


class BreakerSeen(Value, frozen=True):
    """A breaker that isn't closed, at the scheduler of a node; words as in `BreakerState`."""

    worker_id: str
    model_ref: str
    state: str


class Presence(Value, tag="presence", frozen=True):
    """A node and its workers, on `tether/presence/<region>`.

    `addresses` are its running actors of the control chain by their path in the tree. `draining`:
    it wants no new requests. `leaving`: it is on its way out, and this is its last word. `leads`:
    its Admin leads the convention of its region. `revocations` is the number of its list.
    """

    topic: str
    region: str
    roles: tuple[str, ...] = ()
    capabilities: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    addresses: dict[str, str] = msgspec.field(default_factory=dict)
    workers: tuple[HealthReport, ...] = ()
    hardware: Hardware = Hardware()
    breakers: tuple[BreakerSeen, ...] = ()
    release: str = ""
    draining: bool = False
    leaving: bool = False
    leads: bool = False
    revocations: int = 0


class Offer(Value, tag="offer", frozen=True):
    """A model that workers of the node answer for. `digest` tells models of the same name apart;
    `free` of its `slots` take a request at once, `queued` wait in the workers."""

    topic: str
    name: str
    version: str
    digest: str = ""
    workers: tuple[str, ...] = ()
    slots: int = 0
    free: int = 0
    queued: int = 0
    resume_tag: str = ""


class Order(Value, tag="order", frozen=True):
    """Something that other nodes shall do, once. `verb` is models_changed, drain or undrain;
    `target` is a node, or node/worker; `number` is unique for the node's epoch."""

    topic: str
    number: int
    verb: str
    target: str = ""


class Announcement(Value, frozen=True):
    """What `node_id` says. `epoch` grows with every start of its roster, `sequence` with every
    announcement: an older or equal one is never taken. Each entry is a `Presence`, `Offer` or
    `Order` as MessagePack; kinds of a later release are passed over."""

    node_id: str
    epoch: int
    sequence: int
    entries: tuple[msgspec.Raw, ...]


class Announce(Contract, frozen=True):
    """Roster → roster of another node, asked: an `Announcement` as MessagePack in `payload`, the
    certificate (DER) of the node that has signed it, and the signature."""

    payload: bytes
    certificate: bytes
    signature: bytes


class Announced(Contract, frozen=True):
    """It was taken; or it wasn't, for this `refused` (see `actors.roster.announcement.Refusal`).
    `epoch` is the newest that is known of the node that has asked."""

    refused: str = ""
    epoch: int = 0


class Command(Contract, frozen=True):
    """A process of the own node → roster, asked: give an `Order` to all nodes of `region`, or to
    all (""), the own one included. Answered with `Commanded` when they have it, or `within_s` is
    over."""

    verb: str
    target: str = ""
    region: str = ""
    within_s: float = 5.0


class Commanded(Contract, frozen=True):
    """The nodes that have carried an order out, and those that didn't say so in time. They get it
    for a minute more."""

    reached: tuple[str, ...]
    missing: tuple[str, ...] = ()


class Revocations(Contract, frozen=True):
    """Roster → roster of another node, told: a revocation list (PEM) that is newer than its own.
    The authority has signed it, so it doesn't matter who brings it."""

    pem: bytes


class ModelsChanged(Contract, frozen=True):
    """Roster → registry, told: the catalog in PostgreSQL isn't what it was."""
