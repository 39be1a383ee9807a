"""The sections of `cluster.toml` as frozen values; their defaults are safe in production.

Bounds stand in the types, so that a field is described once: `reading` checks each leaf
against its annotation, and `rules` checks what concerns several fields.

Pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from actors.artifacts.options import ArtifactOptions
from actors.contracts.policies import RequestPolicies
from actors.core.model_options import ModelOptions
from actors.core.node_roles import ROLES, RoleName
from actors.core.price_options import PriceOptions
from supervision.capability import Capability, meets
from supervision.settings import ConfigInvalid, Port, Positive, Problem, Seconds, Section, Word
from tether.config.answers_section import AnswersSection
from tether.config.redis import RedisSection

TlsVersion = Literal["1.2", "1.3"]
Key = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
OLD_ROLE: Final = "gateway"
"""What `door` and `control` were together; read for the sake of the sentence that refuses it."""
Role = Literal[RoleName, "gateway"]
EVERY: Final = "*"
"""In the models of a worker: all of them."""
NO_DATABASE: Final = (
    "node {} has the role control, and in a cluster all such nodes need one PostgreSQL that they "
    "reach; write its DSN"
)


class ClusterSection(Section, frozen=True, kw_only=True):
    """Which network this node belongs to. Placement prefers workers of the same region."""

    name: Word = "tether"
    region: Word = "local"


class NodeSection(Section, frozen=True, kw_only=True):
    """This machine's part. `data_dir` is taken from the folder of the file when relative.
    `admin_port` is part of the address of Thespian's Admin, and is not listened on
    while a node is alone. `cache_dir` holds converted models; empty means
    `$XDG_CACHE_HOME/tether`, or `.cache` beside the file. `identity_dir` holds the certificate
    that `tether ca issue` made; a node that has one talks to others by mutual TLS. In the three
    directories `{node}` stands for the id of the node; with `[[nodes]]`, `id` and `admin_port`
    are taken from there. `probe_deadline_s` is how long an actor may leave a ping unanswered until
    it is killed and started again (four times as long for a worker; 0: for ever); `warm_spares`
    how many processes each supervisor keeps ready, of which a restart is made; `spool_bytes` how
    much of bills that PostgreSQL doesn't take is kept in `data_dir`/spool until it does. At
    `metrics`, `HOST:PORT`, all that the node counts is shown to whoever may connect; `{host}`
    stands for that of the node, port 0 picks a free one, which `tether up` prints, and empty shows
    nothing."""

    id: Word = "n1"
    data_dir: Annotated[str, Meta(min_length=1)] = ".tether"
    cache_dir: str = ""
    identity_dir: str = ""
    admin_port: Annotated[int, Meta(ge=1, le=65535)] = 1900
    start_deadline_s: Seconds = 300.0
    stop_deadline_s: Seconds = 30.0
    probe_deadline_s: Annotated[float, Meta(ge=0, le=3600)] = 15.0
    warm_spares: Annotated[int, Meta(ge=0, le=16)] = 1
    spool_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 64 << 20
    metrics: Annotated[str, Meta(pattern=r"^(\S+:[0-9]{1,5})?$")] = "127.0.0.1:9464"

    @property
    def metrics_place(self) -> tuple[str, int] | None:
        """Host, an IPv6 address without brackets, and port; None when nothing is shown."""
        host, _, port = self.metrics.rpartition(":")
        return (host.strip("[]"), int(port)) if self.metrics else None


class MemberSection(Section, frozen=True, kw_only=True):
    """One node of the cluster, as all of them know it. Its processes listen and are dialed at
    `host`, at the ports `ports` ("first-last"; empty: any), its Admin at `admin_port`. `region` is
    that of `[cluster]` if empty. A `door` takes requests of clients; `control` has the database,
    and places and settles; a `worker` runs models. Leaders keep the convention of their region; the
    first of the file that lives leads. `capabilities` are what a worker may require."""

    id: Word
    host: Annotated[str, Meta(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:_-]*$")]
    region: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    roles: Annotated[tuple[Role, ...], Meta(min_length=1)] = ROLES
    leader: bool = False
    admin_port: Annotated[int, Meta(ge=1, le=65535)] = 1900
    ports: Annotated[str, Meta(pattern=r"^([0-9]{1,5}-[0-9]{1,5})?$")] = ""
    capabilities: dict[Key, Capability] = msgspec.field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where its Admin is, as a route."""
        return (
            f"[{self.host}]:{self.admin_port}"
            if ":" in self.host
            else (f"{self.host}:{self.admin_port}")
        )

    @property
    def listen(self) -> str:
        """Where its processes listen."""
        if not self.ports:
            return self.host
        return f"[{self.host}]:{self.ports}" if ":" in self.host else f"{self.host}:{self.ports}"

    def meets(self, requires: Mapping[str, Capability]) -> bool:
        """May a worker that requires this run here?"""
        return "worker" in self.roles and meets(self.capabilities, requires)


class HttpTlsSection(Section, frozen=True, kw_only=True):
    """TLS at the front door. `certificate` is a PEM file, the door's own first and below it those
    that lead to its authority; `key` that of its key, which its owner alone may read. Both are
    taken from the folder of the file when relative, `{node}` stands for the id of the node, and
    they are read again when they change. `minimum` is the oldest version that is spoken."""

    certificate: Annotated[str, Meta(min_length=1)]
    key: Annotated[str, Meta(min_length=1)]
    minimum: TlsVersion = "1.2"


class HttpSection(Section, frozen=True, kw_only=True):
    """The front door. In `host`, `{host}` stands for that of the node. `port` 0 picks a free one,
    which `tether up` prints. `cors_origins` are full origins, or `*`; none means that browsers of
    other origins are refused. Of each process: `body_budget_bytes` of bodies whose requests are
    under way, and `max_strangers` connections on which no good key was shown yet, in all and of one
    address. Without `tls` it speaks plain HTTP."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8080
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 4 << 20
    body_budget_bytes: Annotated[int, Meta(ge=1024, le=1 << 40)] = 128 << 20
    max_strangers: Positive = 1024
    max_strangers_per_address: Positive = 256
    default_deadline_s: Seconds = 120.0
    max_deadline_s: Seconds = 600.0
    tls: HttpTlsSection | None = None


class StoresSection(Section, frozen=True, kw_only=True):
    """`postgres` is a DSN (`postgresql://user@host/name`); empty runs an embedded PostgreSQL in
    the data directory, whose superuser listens on a Unix socket only. A node without the role
    control has neither, and needs none. With `roles` each kind of actor has a user of its own there
    (`tether db roles` makes them, and the embedded server by itself); without it, all are whom the
    DSN names, with all of his rights. Settled jobs are deleted after `keep_jobs_days`, and their
    idempotency keys forgotten; what was billed after `keep_ledger_days`. 0 keeps for ever. Every
    `seal_s` what was billed is sealed."""

    postgres: str = ""
    roles: bool = False
    keep_jobs_days: Annotated[float, Meta(ge=0, le=36_500)] = 30.0
    keep_ledger_days: Annotated[float, Meta(ge=0, le=36_500)] = 0.0
    seal_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0


class GatewaySection(Section, frozen=True, kw_only=True):
    """`partitions` gateways share the tenants by stable hash. One gateway holds at most
    `max_sessions` answers, and in all of their journals at most `journal_tokens` token ids and
    `journal_characters` of text."""

    partitions: Annotated[int, Meta(ge=1, le=256)] = 1
    max_sessions: Positive = 8192
    journal_tokens: Positive = 8_000_000
    journal_characters: Positive = 128_000_000


class LimitsSection(Section, frozen=True, kw_only=True):
    """What one tenant may do unless its row in PostgreSQL says otherwise. 0 means no limit."""

    requests_per_minute: Annotated[int, Meta(ge=0)] = 6_000
    tokens_per_minute: Annotated[int, Meta(ge=0)] = 2_000_000
    max_concurrency: Annotated[int, Meta(ge=0)] = 256


class WorkerSection(Section, frozen=True, kw_only=True):
    """`count` worker processes, each with `slots` requests at once and `threads` of the processor
    for its engines. It runs what the catalog offers of `models`: `name` is all versions of one,
    `name@version` that one, `*` everything. `model_memory_mib` is what they may take together (0:
    no limit); those in `pinned` are always loaded. A worker that holds more than `max_memory_mib`
    for itself is killed and started again (0: no limit; engines, mapped weights and workers that
    are placed by `requires` don't count). `gpu_class` is that of its node if empty. In a cluster
    they run on every node with the role; with `node` on that one alone; with `requires`, `count` of
    them run in each region, on nodes whose capabilities are equal, or for numbers not below. Its
    engines see `gpus` of the node ("all", "none", or their numbers, such as "0,2") and compute on
    the first of them, where torch or vLLM can. Each keeps finished answers in `prefix_mib`, for
    prompts that begin alike (0: none). Their processes run in a `sandbox`: "auto" as far as the
    kernel has it, "required" or not at all, "off" without."""

    id: Word
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    pinned: tuple[str, ...] = ()
    model_memory_mib: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    gpu_class: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    slots: Annotated[int, Meta(ge=1, le=4096)] = 8
    max_queue: Annotated[int, Meta(ge=0, le=1_000_000)] = 64
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    gpus: Annotated[str, Meta(pattern=r"^(all|none|[0-9]{1,3}(,[0-9]{1,3})*)$")] = "all"
    prefix_mib: Annotated[int, Meta(ge=0, le=1 << 24)] = 256
    sandbox: Literal["required", "auto", "off"] = "auto"
    max_memory_mib: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    count: Annotated[int, Meta(ge=1, le=256)] = 1
    node: str = ""
    requires: dict[Key, Capability] = msgspec.field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each process: `id` itself, or `id-0`, `id-1` … when there are several."""
        if self.count == 1:
            return (self.id,)
        return tuple(f"{self.id}-{number}" for number in range(self.count))


class Config(Section, frozen=True, kw_only=True):
    """All of `cluster.toml`. `folder` is where the file lies: relative paths start there."""

    cluster: ClusterSection = ClusterSection()
    node: NodeSection = NodeSection()
    nodes: tuple[MemberSection, ...] = ()
    http: HttpSection = HttpSection()
    stores: StoresSection = StoresSection()
    redis: RedisSection = RedisSection()
    artifacts: ArtifactOptions = ArtifactOptions()
    answers: AnswersSection = AnswersSection()
    gateway: GatewaySection = GatewaySection()
    limits: LimitsSection = LimitsSection()
    policies: RequestPolicies = RequestPolicies()
    models: tuple[ModelOptions, ...] = ()
    prices: tuple[PriceOptions, ...] = ()
    workers: tuple[WorkerSection, ...] = ()
    folder: Path = Path()

    @property
    def cache_dir(self) -> Path:
        """Where converted models are kept, absolute."""
        if self.node.cache_dir:
            return self.placed(self.node.cache_dir)
        shared = os.environ.get("XDG_CACHE_HOME")
        return Path(shared) / "tether" if shared else (self.folder / ".cache").resolve()

    @property
    def trust_dir(self) -> Path:
        """Where the keys lie whose signatures count, absolute."""
        return (self.folder / Path(self.artifacts.trust_dir).expanduser()).resolve()

    @property
    def data_dir(self) -> Path:
        """The node's own directory, absolute."""
        return self.placed(self.node.data_dir)

    @property
    def identity_dir(self) -> Path | None:
        """Where the node's certificate is, absolute; None when it has none."""
        return self.placed(self.node.identity_dir) if self.node.identity_dir else None

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """The certificate of the front doors and its key, absolute; None when they have none."""
        tls = self.http.tls
        return (self.placed(tls.certificate), self.placed(tls.key)) if tls else None

    @property
    def member(self) -> MemberSection | None:
        """This node among `nodes`; None when it is alone."""
        return next((m for m in self.nodes if m.id == self.node.id), None)

    @property
    def region_members(self) -> tuple[MemberSection, ...]:
        """The nodes of this node's region, itself included; empty when it is alone."""
        return tuple(m for m in self.nodes if self.region_of(m) == self.cluster.region)

    def has_role(self, role: Role) -> bool:
        """Is this node to do that? One that is alone does everything."""
        return self.member is None or role in self.member.roles

    def region_of(self, member: MemberSection) -> str:
        """Its own region, or that of the cluster."""
        return member.region or self.cluster.region

    def at(self, node: str) -> Config:
        """This configuration as the node called `node` reads it.

        Raises:
            ConfigInvalid: there is no such node, or several and none is named; or it needs a
                database that all of them reach, and there is none.
        """
        if not self.nodes:
            if node not in ("", self.node.id):
                raise _unknown(node, "it lists no [[nodes]]")
            return self
        ids = [m.id for m in self.nodes]
        if not node and len(ids) > 1:
            raise _unknown("", f"name one of {', '.join(ids)} with --node, or in TETHER_NODE")
        member = next((m for m in self.nodes if m.id == (node or ids[0])), None)
        if member is None:
            raise _unknown(node, f"it lists {', '.join(ids)}")
        if "control" in member.roles and len(ids) > 1 and not self.stores.postgres:
            raise ConfigInvalid((Problem("stores.postgres", NO_DATABASE.format(member.id)),))
        replace = msgspec.structs.replace
        dsn = self.stores.postgres if "control" in member.roles else ""
        nodes = tuple(replace(m, region=self.region_of(m)) for m in self.nodes)
        return replace(
            self,
            node=replace(
                self.node,
                id=member.id,
                admin_port=member.admin_port,
                metrics=self.node.metrics.replace("{host}", member.host),
            ),
            cluster=replace(self.cluster, region=self.region_of(member)),
            http=replace(self.http, host=self.http.host.replace("{host}", member.host)),
            stores=replace(self.stores, postgres=dsn),
            nodes=nodes,
        )

    def placed(self, path: str) -> Path:
        """A path of the file, absolute."""
        named = path.replace("{node}", self.node.id)
        return (self.folder / Path(named).expanduser()).resolve()

    def matching(self, patterns: Iterable[str]) -> tuple[ModelOptions, ...]:
        """The models that a worker with these `models` runs, in the order of the patterns."""
        return matching(self.models, patterns)


def _unknown(node: str, why: str) -> ConfigInvalid:
    what = f"there is no node {node!r} in this configuration" if node else "which node is this"
    return ConfigInvalid((Problem("nodes", f"{what}; {why}"),))


def matching(models: Sequence[ModelOptions], patterns: Iterable[str]) -> tuple[ModelOptions, ...]:
    """See `Config.matching`."""
    return tuple(
        dict.fromkeys(
            model
            for pattern in patterns
            for model in models
            if pattern in (EVERY, model.name, model.ref)
        )
    )
