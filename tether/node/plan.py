"""The plan of a node: from the configuration to its supervision tree.

::

    node  one_for_one
    ├─ metrics                  for Prometheus; the launcher holds its listening socket
    ├─ postgres                 at a control node without a DSN
    ├─ valkey                   at one without a redis.url: adds up what tenants use
    ├─ control  rest_for_one    registry, roster, reservation, scheduler, gateways
    ├─ workers  dynamic         losing the control chain never unloads a model
    ├─ depot                    in a cluster: lends other nodes what is in the cache
    ├─ placer                   at a leader: workers that may run at any node of the region
    └─ doors    one_for_one     front-door processes; the launcher holds their listening socket

A node without the role "control" has of the control chain its roster only, and no database; its
workers and doors turn to control nodes. One without "door" has no doors, and one without "worker"
no workers of its own.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from actors.artifacts.options import ArtifactOptions
from actors.contracts import ModelCard, ModelPolicy
from actors.core.model_options import ModelOptions
from actors.depot.peer_sources import PeerNode, PeerNodes
from actors.gateway import Gateway, GatewayOptions
from actors.gateway.admission import TenantLimits
from actors.gateway.session import SessionBounds
from actors.placer.placer import Placer, PlacerOptions
from actors.postgres import Postgres, PostgresOptions
from actors.registry import Registry, RegistryOptions
from actors.reservation.reservation import Reservation, ReservationOptions
from actors.reservation.settle_spool import SpoolOptions
from actors.roster import OtherNode, Roster, RosterOptions
from actors.scheduler import Scheduler, SchedulerOptions
from actors.stores.database_roles import DatabaseRole, with_user
from actors.stores.embedded import Embedded
from actors.stores.ledger_options import LedgerOptions
from actors.worker import Worker, WorkerOptions
from supervision.dynamic import DynamicSupervisor
from supervision.partition import PartitionSupervisor
from supervision.spec import ChildSpec, DynamicOptions, PartitionOptions, Restart, SupervisorOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from tether.config import Config, WorkerSection
from tether.node.door_plan import doors
from tether.node.limits_plan import limits_plan, valkey
from tether.node.metrics_listener import MetricsListener

#: As many times as long as others may a worker be silent: engines share its interpreter.
WORKER_PROBE: Final = 4
DAY_S: Final = 86_400.0
HANDOVER: Final = "http"
METRICS: Final = "metrics"
POSTGRES_SOCKETS: Final = ".pg"  # below the run directory; no node id begins with a dot


def tree_of(config: Config, run_dir: Path, *, port: int) -> SupervisorOptions:
    """The children of the root supervisor; `port` is the front door's."""
    probe_s = config.node.probe_deadline_s
    children: list[ChildSpec] = []
    if config.node.metrics:
        children.append(MetricsListener.at(handover_of(config, run_dir, METRICS)))
    if config.has_role("control") and not config.stores.postgres:
        options = PostgresOptions(
            data_dir=str(_postgres_data(config)), socket_dir=str(run_dir / POSTGRES_SOCKETS)
        )
        children.append(Postgres.spec(options))
    if (store := valkey(config, run_dir)) is not None:
        children.append(store)
    control = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE, children=_probed(_control(config, run_dir), probe_s)
    )
    workers = DynamicOptions(children=_probed(_workers(config), probe_s * WORKER_PROBE))
    children += [
        Supervisor.spec(control, id="control"),
        DynamicSupervisor.spec(workers, id="workers"),
    ]
    if has_depot(config):
        from actors.depot import Depot, DepotOptions  # brings all of actors.artifacts

        lent = DepotOptions(cache_dir=str(config.cache_dir), artifacts=artifacts_of(config))
        children.append(Depot.spec(lent))
    if placed := _probed(_placed(config), probe_s * WORKER_PROBE):
        placing = PlacerOptions(
            node=config.node.id,
            admin_port=config.node.admin_port,
            workers=placed,
            leaders=tuple(m.id for m in config.region_members if m.leader),
        )
        children.append(Placer.spec(placing))
    if config.has_role("door"):
        own_database = config.has_role("control") and not config.stores.postgres
        storage = str(_postgres_data(config)) if own_database else ""
        each = doors(config, handover_of(config, run_dir), storage, port)
        group = SupervisorOptions(children=_probed(each, probe_s))
        children.append(Supervisor.spec(group, id="doors"))
    return SupervisorOptions(children=_probed(children, probe_s))


def _probed(specs: Iterable[ChildSpec], probe_s: float) -> tuple[ChildSpec, ...]:
    return tuple(msgspec.structs.replace(spec, probe_s=probe_s) for spec in specs)


def handover_of(config: Config, run_dir: Path, name: str = HANDOVER) -> str:
    """Where the launcher hands a listening socket over, the doors' or another: beside those of the
    actors, in the folder that only this user may enter."""
    return f"{run_dir}/{config.node.id}/{name}"


def has_depot(config: Config) -> bool:
    """Does this node lend others what it has?"""
    lends = config.artifacts.peers and bool(config.artifacts.replicas)
    return lends and len(config.nodes) > 1 and config.has_role("worker")


def around(config: Config) -> PeerNodes:
    """The nodes that may lend artifacts to this one."""
    if not config.artifacts.peers or not config.artifacts.replicas:
        return PeerNodes()
    return PeerNodes(
        region=config.cluster.region,
        nodes=tuple(
            PeerNode(id=m.id, region=config.region_of(m), admin_port=m.admin_port)
            for m in config.nodes
            if "worker" in m.roles
        ),
    )


def own_models(config: Config) -> tuple[ModelOptions, ...]:
    """The models that this node's own workers run."""
    return config.matching(name for worker in _own(config) for name in worker.models)


def own_workers(config: Config) -> int:
    """How many workers belong to this node."""
    return sum(len(worker.ids) for worker in _own(config))


def possible_models(config: Config) -> tuple[ModelOptions, ...]:
    """Those, and what may be placed here."""
    member = config.member
    placed = config.matching(
        name
        for worker in config.workers
        if worker.requires and member is not None and member.meets(worker.requires)
        for name in worker.models
    )
    return tuple(dict.fromkeys((*own_models(config), *placed)))


def dsn_of(config: Config, run_dir: Path, role: DatabaseRole) -> str:
    """Where the database is, or will be, for this kind of actor; empty at a node that has none. On
    the node's own server each has a user of its own, on another one where `stores.roles` says so.
    """
    if not config.has_role("control"):
        return ""
    if config.stores.postgres:
        dsn = config.stores.postgres
        return with_user(dsn, role) if config.stores.roles else dsn
    return with_user(Embedded(_postgres_data(config), run_dir / POSTGRES_SOCKETS).dsn, role)


def artifacts_of(config: Config) -> ArtifactOptions:
    """Where artifacts come from; the trust store's folder is absolute."""
    return msgspec.structs.replace(config.artifacts, trust_dir=str(config.trust_dir))


def card_of(config: Config, model: ModelOptions) -> ModelCard:
    """A model of the configuration as the catalog knows it; its folder is absolute."""

    def absolute(source: str) -> str:
        if source and not source.startswith(("package:", "artifact:")):
            return str(config.folder / Path(source).expanduser())
        return source

    return ModelCard(
        name=model.name,
        version=model.version,
        engine=model.engine,
        source=absolute(model.source),
        context=model.context,
        dtype=model.dtype,
        adapter=absolute(model.adapter),
        gpu_class=model.gpu_class,
        memory_mib=model.memory_mib,
        policy=ModelPolicy(**msgspec.structs.asdict(model.policy)),
        special_tokens_in_text=model.special_tokens_in_text,
    )


def _cards(config: Config, models: Iterable[ModelOptions]) -> tuple[ModelCard, ...]:
    return tuple(card_of(config, model) for model in models)


def _postgres_data(config: Config) -> Path:
    return config.data_dir / "postgres"


def _control(config: Config, run_dir: Path) -> Iterator[ChildSpec]:
    if not config.has_role("control"):
        yield Roster.spec(_roster(config))
        return
    yield Registry.spec(
        RegistryOptions(
            dsn=dsn_of(config, run_dir, DatabaseRole.REGISTRY),
            catalog=_cards(config, config.models),
            artifacts=artifacts_of(config),
        )
    )
    yield Roster.spec(_roster(config))
    keep = LedgerOptions(
        keep_jobs_s=config.stores.keep_jobs_days * DAY_S,
        keep_ledger_s=config.stores.keep_ledger_days * DAY_S,
        answers=config.answers.options,
        seal_s=config.stores.seal_s,
    )
    reserving = dsn_of(config, run_dir, DatabaseRole.RESERVATION)
    options = ReservationOptions(dsn=reserving, ledger=keep, prices=config.prices)
    yield Reservation.spec(options)
    yield Scheduler.spec(SchedulerOptions(region=config.cluster.region))
    shared = limits_plan(config, run_dir)
    gateway = GatewayOptions(
        dsn=dsn_of(config, run_dir, DatabaseRole.GATEWAY),
        store=shared.store,
        parts=shared.parts,
        limit_share=shared.share,
        limits=TenantLimits(
            requests_per_minute=config.limits.requests_per_minute,
            tokens_per_minute=config.limits.tokens_per_minute,
            concurrency=config.limits.max_concurrency,
        ),
        sessions=SessionBounds(
            sessions=config.gateway.max_sessions,
            tokens=config.gateway.journal_tokens,
            characters=config.gateway.journal_characters,
        ),
        policies=config.policies,
        answers=config.answers.options,
        max_deadline_s=config.http.max_deadline_s,
        spool=SpoolOptions(bytes=config.node.spool_bytes),
    )
    yield PartitionSupervisor.spec(
        PartitionOptions(
            child=Gateway.spec(gateway, probe_s=config.node.probe_deadline_s),
            partitions=config.gateway.partitions,
        ),
        id="gateways",
    )


def _roster(config: Config) -> RosterOptions:
    member = config.member
    return RosterOptions(
        node_id=config.node.id,
        region=config.cluster.region,
        host=member.host if member else "",
        admin_port=config.node.admin_port,
        roles=member.roles if member else (),
        capabilities=member.capabilities if member else {},
        others=tuple(
            OtherNode(
                id=other.id,
                admin_port=other.admin_port,
                region=config.region_of(other),
                host=other.host,
                roles=other.roles,
            )
            for other in config.nodes
            if other.id != config.node.id
        ),
        state_dir=str(config.data_dir / "roster"),
    )


def _own(config: Config) -> Iterator[WorkerSection]:
    """The workers that belong to this node."""
    if config.has_role("worker"):
        for worker in config.workers:
            if not worker.requires and worker.node in ("", config.node.id):
                yield worker


def _workers(config: Config) -> Iterator[ChildSpec]:
    for worker in _own(config):
        for id_ in worker.ids:
            worker_id = f"{id_}.{config.node.id}" if config.member else id_
            options = _worker(config, worker, worker_id)
            yield Worker.spec(
                options,
                shutdown=config.node.stop_deadline_s,
                max_memory_bytes=worker.max_memory_mib << 20,
            )


def _placed(config: Config) -> Iterator[ChildSpec]:
    """The workers that the leader of this node's region is to place, if this may be it."""
    member = config.member
    if member is None or not member.leader:
        return
    for worker in config.workers:
        if worker.requires and any(m.meets(worker.requires) for m in config.region_members):
            for id_ in worker.ids:
                yield Worker.spec(
                    _worker(config, worker, f"{id_}.{config.cluster.region}"),
                    shutdown=config.node.stop_deadline_s,
                    restart=Restart.TEMPORARY,  # the placer starts it again, wherever it can be
                    requires={**worker.requires, "role_worker": True},
                )


def _worker(config: Config, worker: WorkerSection, worker_id: str) -> WorkerOptions:
    return WorkerOptions(
        worker_id=worker_id,
        node_id=config.node.id,
        cards=_cards(config, config.matching(worker.models)),
        models=worker.models,
        pinned=worker.pinned,
        model_memory_mib=worker.model_memory_mib,
        gpu_class=_gpu_class(config, worker),
        cache_dir=str(config.cache_dir),
        artifacts=artifacts_of(config),
        around=around(config),
        region=config.cluster.region,
        slots=worker.slots,
        queue=worker.max_queue,
        threads=worker.threads,
        gpus=worker.gpus,
        sandbox=worker.sandbox,
        prefix_mib=worker.prefix_mib,
        elsewhere=len(config.nodes) > 1,
        answers=config.answers.options,
        spool=SpoolOptions(bytes=config.node.spool_bytes),
    )


def _gpu_class(config: Config, worker: WorkerSection) -> str:
    """Of the node that it runs on; of one that is placed, what it requires."""
    member = config.member
    has = worker.requires or (member.capabilities if member else {})
    return worker.gpu_class or str(has.get("gpu_class", "cpu"))
