"""From the configuration to the supervision tree of the node. Pure.

::

    node  one_for_one
    ├─ postgres                 only without a DSN
    ├─ control  rest_for_one    registry, roster, reservation, scheduler, gateways
    ├─ workers  dynamic         losing the control chain never unloads a model
    └─ doors    one_for_one     front-door processes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from actors.gateway import Gateway, GatewayOptions
from actors.postgres import Postgres, PostgresOptions
from actors.registry import Registry, RegistryOptions
from actors.reservation import Reservation, ReservationOptions
from actors.roster import Roster
from actors.scheduler import Scheduler, SchedulerOptions
from actors.worker import Worker, WorkerOptions
from supervision import (
    ChildSpec,
    DynamicOptions,
    DynamicSupervisor,
    PartitionOptions,
    PartitionSupervisor,
    Strategy,
    Supervisor,
    SupervisorOptions,
)
from tether.config import Config, Model
from tether.contracts import ModelCard
from tether.core.admission import TenantLimits
from tether.core.session import SessionBounds
from tether.http.door import FrontDoor
from tether.http.options import DoorOptions
from tether.stores.embedded import Embedded

#: What the Admin of a node may start.
ACTOR_CLASSES: Final = ("actors.*", "supervision.*", "tether.http.door:FrontDoor")
POSTGRES_SOCKETS: Final = ".pg"  # below the run directory; no node id begins with a dot


def tree_of(config: Config, run_dir: Path, *, port: int) -> SupervisorOptions:
    """The children of the root supervisor; `port` is the front door's."""
    dsn = dsn_of(config, run_dir)
    children: list[ChildSpec] = []
    if not config.stores.postgres:
        options = PostgresOptions(
            data_dir=str(_postgres_data(config)), socket_dir=str(run_dir / POSTGRES_SOCKETS)
        )
        children.append(Postgres.spec(options))
    control = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE, children=tuple(_control(config, dsn))
    )
    workers = DynamicOptions(children=tuple(_workers(config)))
    doors = SupervisorOptions(children=tuple(_doors(config, port)))
    children += [
        Supervisor.spec(control, id="control"),
        DynamicSupervisor.spec(workers, id="workers"),
        Supervisor.spec(doors, id="doors"),
    ]
    return SupervisorOptions(children=tuple(children))


def dsn_of(config: Config, run_dir: Path) -> str:
    """Where the database is, or will be."""
    return (
        config.stores.postgres or Embedded(_postgres_data(config), run_dir / POSTGRES_SOCKETS).dsn
    )


def card_of(config: Config, model: Model) -> ModelCard:
    """A model of the configuration as the catalog knows it; its folder is absolute."""
    source = model.source
    if source and not source.startswith("package:"):
        source = str(config.folder / Path(source).expanduser())
    return ModelCard(
        name=model.name,
        version=model.version,
        engine=model.engine,
        source=source,
        context=model.context,
        dtype=model.dtype,
    )


def _cards(config: Config, models: Iterable[Model]) -> tuple[ModelCard, ...]:
    return tuple(card_of(config, model) for model in models)


def _postgres_data(config: Config) -> Path:
    return config.data_dir / "postgres"


def _control(config: Config, dsn: str) -> Iterator[ChildSpec]:
    yield Registry.spec(RegistryOptions(dsn=dsn, catalog=_cards(config, config.models)))
    yield Roster.spec()
    yield Reservation.spec(ReservationOptions(dsn=dsn))
    yield Scheduler.spec(SchedulerOptions(region=config.cluster.region))
    gateway = GatewayOptions(
        dsn=dsn,
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
        max_deadline_s=config.http.max_deadline_s,
    )
    yield PartitionSupervisor.spec(
        PartitionOptions(child=Gateway.spec(gateway), partitions=config.gateway.partitions),
        id="gateways",
    )


def _workers(config: Config) -> Iterator[ChildSpec]:
    for worker in config.workers:
        cards = _cards(config, (m for name in worker.models if (m := config.model(name))))
        for id_ in worker.ids:
            options = WorkerOptions(
                worker_id=id_,
                node_id=config.node.id,
                cards=cards,
                cache_dir=str(config.cache_dir),
                region=config.cluster.region,
                slots=worker.slots,
                queue=worker.max_queue,
                threads=worker.threads,
            )
            yield Worker.spec(options, shutdown=config.node.stop_deadline_s)


def _doors(config: Config, port: int) -> Iterator[ChildSpec]:
    http = config.http
    options = DoorOptions(
        host=http.host,
        port=port,
        share_port=http.processes > 1,
        gateways=config.gateway.partitions,
        cors_origins=http.cors_origins,
        max_body_bytes=http.max_body_bytes,
        default_deadline_s=http.default_deadline_s,
        max_deadline_s=http.max_deadline_s,
    )
    for number in range(http.processes):
        yield FrontDoor.spec(options, id=str(number), shutdown=config.node.stop_deadline_s)
