"""The capabilities of a node, for its Admin: its runtime, the other nodes, what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from actors.core.node_roles import CONTROL, ROLES
from supervision.security.identity import Identity, IdentityUnusable
from tether.config import Config, MemberSection
from tether.http.certificate import CertificateUnusable, DoorCertificate
from tether.node.home import REVOKED

#: What the Admin of a node may start.
ACTOR_CLASSES: Final = (
    "supervision.root:Root",
    "supervision.supervisor:Supervisor",
    "supervision.dynamic:DynamicSupervisor",
    "supervision.partition:PartitionSupervisor",
    "actors.depot.artifact_server:Depot",
    "actors.gateway.gateway:Gateway",
    "actors.placer.placer:Placer",
    "actors.postgres.postgres:Postgres",
    "actors.valkey.valkey:Valkey",
    "actors.registry.registry:Registry",
    "actors.reservation.reservation:Reservation",
    "actors.roster.roster:Roster",
    "actors.scheduler.scheduler:Scheduler",
    "actors.worker.worker:Worker",
    "tether.http.server_actor:FrontDoor",
    "tether.node.metrics_listener:MetricsListener",
)
#: Which of these another node may have started here: what a placer places.
PLACED_CLASSES: Final = ("actors.worker.worker:Worker",)
#: Thespian's words for how often a member of a convention registers (minutes and seconds); what
#: ends is noticed by connections, so this only bounds how long a node that has just come is alone.
CONVENTION_PERIODS: Final = {
    "CONVENTION_REREGISTRATION_PERIOD": "0:05",
    "CONVENTION_RESTART_PERIOD": "0:05",
}


class NotOfCluster(Exception):
    """A certificate of the node can't be used here; one sentence."""


def capabilities_of(config: Config, run_dir: Path, *, owner_pid: int) -> dict[str, Any]:
    """The capabilities of `ActorSystem("tether", …)`; see `supervision.runtime.options`. Pure."""
    node = config.node
    told: dict[str, Any] = {
        "Node Id": node.id,
        "Admin Port": node.admin_port,
        "Run Dir": str(run_dir),
        "Actor Classes": list(ACTOR_CLASSES),
        "Placed Classes": list(PLACED_CLASSES),
        "Placing Roles": [CONTROL],
        "Owner Pid": owner_pid,
        "Warm Spares": node.warm_spares,
        "node": node.id,
        "region": config.cluster.region,
    }
    if config.identity_dir is not None:
        told["Tls Identity Dir"] = str(config.identity_dir)
        told["Revoked Dir"] = str(config.data_dir / REVOKED)
    member = config.member
    if member is None:
        return told
    told |= member.capabilities
    told |= {f"role_{role}": True for role in member.roles}
    if config.identity_dir is not None:
        told["Listen"] = member.listen
        told["Routes"] = {m.id: m.place for m in config.nodes if m.id != node.id}
        if leaders := [leader_of(m) for m in config.region_members if m.leader]:
            told["Convention Address.IPv4"] = leaders
    return told


def leader_of(member: MemberSection) -> str:
    """Its Admin, as Thespian is told of a leader: in the same order at every node."""
    return f"{member.id}/admin/{member.admin_port}"


def _roles_of(config: Config) -> tuple[str, ...]:
    """What its certificate has to say. A node that is alone does everything."""
    return config.member.roles if config.member is not None else ROLES


def check_identity(config: Config) -> None:
    """Look at the node's certificate before anything is started with it.

    Raises:
        NotOfCluster: it can't be used, or is of another cluster.
    """
    folder = config.identity_dir
    if folder is None:
        return
    identity = Identity(folder, config.node.id, kept=config.data_dir / REVOKED)
    try:
        identity.load()
    except IdentityUnusable as error:
        makes = f"; `tether ca issue {config.node.id} --to {folder}` makes one"
        raise NotOfCluster(f"{error}{'' if 'tether ca' in str(error) else makes}") from None
    name = identity.current.name
    if name.cluster != config.cluster.name:
        raise NotOfCluster(
            f"the certificate in {folder} is of cluster {name.cluster}, and cluster.name is "
            f"{config.cluster.name}; take that of the right authority"
        )
    lacks = [role for role in _roles_of(config) if role not in identity.current.roles]
    if lacks:
        raise NotOfCluster(
            f"node {config.node.id} is to have the role {', '.join(lacks)}, and the certificate in "
            f"{folder} says {', '.join(identity.current.roles)}; `tether ca renew {config.node.id} "
            f"--roles {','.join(_roles_of(config))} --to {folder}` makes one that fits"
        )
    if identity.current.ends_at <= identity.now():
        raise NotOfCluster(
            f"the certificate in {folder} has ended; `tether ca renew {config.node.id} --to "
            f"{folder}` makes a new one"
        )


def certificate_of(config: Config) -> DoorCertificate | None:
    """The certificate of the node's front doors, looked at before anything is started with it; None
    where they have none.

    Raises:
        NotOfCluster: it can't be used.
    """
    files, tls = config.tls_files, config.http.tls
    if files is None or tls is None:
        return None
    try:
        return DoorCertificate(*files, tls.minimum)
    except CertificateUnusable as error:
        raise NotOfCluster(str(error)) from None
