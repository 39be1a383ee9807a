"""What the fleet says of itself: workers, models, readiness."""

from __future__ import annotations

from tether.contracts.contract import Contract, Value


class ModelCard(Value, frozen=True):
    """One version of a model in the catalog. `engine` is gguf, transformers or echo; `source`
    is a folder, a file or a package-backed name that the loader understands; `context` is in
    tokens."""

    name: str
    version: str
    engine: str
    source: str = ""
    context: int = 2048
    dtype: str = "float32"
    created_s: int = 0

    @property
    def ref(self) -> str:
        """The full name, `name@version`."""
        return f"{self.name}@{self.version}"


class HealthReport(Contract, frozen=True):
    """Worker → roster, told every 5 s and at once when something changed.

    `models` are the refs that have answered a real one-token request. `running` and `queued`
    count requests, `slots` is how many may run at once. `epoch` grows with every start of the
    worker, `sequence` with every report of it. `digests` belong to `models`, one each, and tell
    models of the same name apart; `cached` are refs whose files lie ready, loaded or not.
    `placed_by` counts `running` and `queued` by the node whose gateway has sent them.
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


class WatchFleet(Contract, frozen=True):
    """→ roster, opens a stream of `Fleet`: one at once, then one per change, newest only."""


class Fleet(Contract, frozen=True):
    """All workers that are alive. `version` grows with every change. `suspects` are the ids of
    those whose last report is late."""

    version: int
    workers: tuple[HealthReport, ...]
    suspects: tuple[str, ...] = ()


class WatchCatalog(Contract, frozen=True):
    """→ registry, opens a stream of `Catalog`: one at once, then one per change."""


class Catalog(Contract, frozen=True):
    """All models that may be asked for."""

    version: int
    models: tuple[ModelCard, ...]


class ListModels(Contract, frozen=True):
    """Front door → gateway: the `Catalog` that this credential may see."""

    credential: str


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


class ShowConvention(Contract, frozen=True):
    """→ Admin: the `ConventionShown` of Thespian's convention that it is of."""


class ConventionShown(Contract, frozen=True):
    """`leader` is the id of the node that leads, as far as this one knows; `members` are the others
    that it knows of."""

    leader: str = ""
    members: tuple[str, ...] = ()
