"""The messages about the fleet: workers' health, readiness, the nodes of the cluster. Pure."""

from __future__ import annotations

from supervision.contracts.contract import Contract, Value


class HealthReport(Contract, frozen=True):
    """Worker → roster, told every 5 s and at once when something changed.

    `models` are the refs that have answered a real one-token request. `running` and `queued`
    count requests, `slots` is how many may run at once. `epoch` grows with every start of the
    worker, `sequence` with every report of it. `digests` belong to `models`, one each, and tell
    models of the same name apart; `cached` are refs whose files lie ready, loaded or not.
    `placed_by` counts `running` and `queued` by the node whose gateway has sent them. `loadable`
    are refs that it doesn't answer for now, and would load if asked; `loading` those that it is
    about to. `tokens_per_s` are output tokens over the last seconds; `model_bytes` is what its
    engines hold, at most `budget_bytes` of it (0: no budget). `abilities` belong to `models`, one
    each: words with spaces between them, see `Capabilities.abilities`.
    """

    worker_id: str
    node_id: str
    address: str
    region: str
    slots: int
    running: int
    queued: int
    models: tuple[str, ...]
    epoch: int
    sequence: int
    gpu_class: str = "cpu"
    draining: bool = False
    memory_bytes: int = 0
    resume_tag: str = ""
    digests: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    placed_by: tuple[tuple[str, int], ...] = ()
    loadable: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    tokens_per_s: float = 0.0
    model_bytes: int = 0
    budget_bytes: int = 0
    abilities: tuple[str, ...] = ()


class WatchFleet(Contract, frozen=True):
    """→ roster, opens a stream of `Fleet`: one at once, then one per change, newest only."""


class Fleet(Contract, frozen=True):
    """All workers that are alive. `version` grows with every change. `suspects` are the ids of
    those whose last report is late."""

    version: int
    workers: tuple[HealthReport, ...]
    suspects: tuple[str, ...] = ()


class WatchControlPlane(Contract, frozen=True):
    """A process of the own node → roster, opens a stream of `ControlPlane`: one at once, then one
    per change, newest only."""


class ControlNode(Value, frozen=True):
    """Another node with the role control, and its running actors of the control chain by their path
    in its tree. `suspect`: its announcements are late. `draining`: it was ordered to."""

    node: str
    region: str
    addresses: dict[str, str]
    suspect: bool = False
    draining: bool = False


class ControlPlane(Contract, frozen=True):
    """The other nodes with the role control that are there, in the order of the configuration."""

    nodes: tuple[ControlNode, ...] = ()


class Readiness(Contract, frozen=True):
    """Front door → gateway: does a model answer?"""


class Ready(Contract, frozen=True):
    """`models` are the refs that some living worker has answered for; empty means not ready."""

    models: tuple[str, ...]


class ClusterNode(Value, frozen=True):
    """One node of `cluster.toml`, as another one sees it.

    `state` is here (the one that was asked), alive, suspect (its announcements are late), gone, or
    unknown (never heard since we started); `since_s` is how long it has been so. `leads` says that
    it leads the convention of its region now, as it says itself. What it never said is empty.
    `models` are the refs that its workers answer for. `draining`: it was ordered to.
    """

    node: str
    region: str
    state: str
    since_s: float = 0.0
    host: str = ""
    roles: tuple[str, ...] = ()
    leads: bool = False
    version: str = ""
    epoch: int = 0
    workers: tuple[HealthReport, ...] = ()
    models: tuple[str, ...] = ()
    draining: bool = False


class ShowCluster(Contract, frozen=True):
    """→ roster: the `ClusterShown` as its node sees it."""


class ClusterShown(Contract, frozen=True):
    """All nodes of the configuration in its order, and those that were heard of beside it."""

    node: str
    nodes: tuple[ClusterNode, ...]
