"""From the configuration to the tree."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from actors.core.answer_options import AnswerOptions
from actors.core.node_roles import ROLES
from actors.depot import DepotOptions
from actors.gateway import GatewayOptions
from actors.placer.placer import PlacerOptions
from actors.registry import RegistryOptions
from actors.reservation.reservation import ReservationOptions
from actors.roster import RosterOptions
from actors.stores.database_roles import DatabaseRole
from actors.worker import WorkerOptions
from supervision.runtime.options import NodeOptions
from supervision.security.authority import Authority
from supervision.spec import ChildSpec, DynamicOptions, PartitionOptions, SupervisorOptions
from tether.config import Config, parse
from tether.http.options import DoorOptions
from tether.node.capabilities import ACTOR_CLASSES, NotOfCluster, capabilities_of, check_identity
from tether.node.metrics_listener import MetricsOptions
from tether.node.plan import dsn_of, own_models, possible_models, tree_of

TEXT = """
[cluster]
region = "north"
[node]
stop_deadline_s = 7.0
[http]
processes = 2
max_deadline_s = 300.0
[gateway]
partitions = 3
[limits]
tokens_per_minute = 5
[[models]]
name = "echo"
engine = "echo"
[[models]]
name = "tiny"
engine = "transformers"
source = "models/tiny"
[[workers]]
id = "w"
models = ["echo", "tiny@1"]
count = 2
slots = 3
max_queue = 4
"""


def config(more: str = "") -> Config:
    return parse(TEXT + more, folder=Path("/srv/tether"))


def children(spec: ChildSpec, kind: type[msgspec.Struct]) -> dict[str, ChildSpec]:
    return {c.id: c for c in msgspec.msgpack.decode(spec.args, type=kind).children}  # type: ignore[attr-defined]


def test_the_tree_of_a_node() -> None:
    top = {c.id: c for c in tree_of(config(), Path("/run/x"), port=81).children}
    assert list(top) == ["metrics", "postgres", "valkey", "control", "workers", "doors"]
    control = msgspec.msgpack.decode(top["control"].args, type=SupervisorOptions)
    assert control.strategy == "rest_for_one"
    assert [c.id for c in control.children] == [
        "registry", "roster", "reservation", "scheduler", "gateways",
    ]  # fmt: skip
    gateways = msgspec.msgpack.decode(control.children[-1].args, type=PartitionOptions)
    assert gateways.partitions == 3
    gateway = msgspec.msgpack.decode(gateways.child.args, type=GatewayOptions)
    assert gateway.limits.tokens_per_minute == 5
    assert gateway.max_deadline_s == 300
    workers = children(top["workers"], DynamicOptions)
    assert list(workers) == ["w-0", "w-1"]
    worker = msgspec.msgpack.decode(workers["w-1"].args, type=WorkerOptions)
    assert (worker.slots, worker.queue, worker.region) == (3, 4, "north")
    assert (worker.models, worker.gpu_class) == (("echo", "tiny@1"), "cpu")
    assert [card.source for card in worker.cards] == ["", "/srv/tether/models/tiny"]
    doors = children(top["doors"], SupervisorOptions)
    assert list(doors) == ["0", "1"]
    door = msgspec.msgpack.decode(doors["0"].args, type=DoorOptions)
    assert (door.port, door.gateways) == (81, 3)
    assert door.handover == "/run/x/n1/http"  # so none of them listens by itself
    assert doors["0"].shutdown == workers["w-0"].shutdown == 7


def test_what_reservation_keeps_and_for_how_long() -> None:
    stores = "[stores]\nkeep_jobs_days = 2.0\nkeep_ledger_days = 400.0\n"
    for more, jobs, ledger in (("", 30, 0), (stores, 2, 400)):
        top = {c.id: c for c in tree_of(config(more), Path("/run/x"), port=81).children}
        reservation = children(top["control"], SupervisorOptions)["reservation"]
        kept = msgspec.msgpack.decode(reservation.args, type=ReservationOptions).ledger
        assert (kept.keep_jobs_s, kept.keep_ledger_s) == (jobs * 86_400, ledger * 86_400)


def test_what_is_kept_of_answers_is_told_to_all_who_make_or_hold_them() -> None:
    config_ = config("[answers]\nkeep_hours = 48.0\nanswer_kib = 2\ntenant_mib = 3\n")
    wanted = AnswerOptions(keep_s=48 * 3600.0, answer_bytes=2048, tenant_bytes=3 << 20)
    top = {c.id: c for c in tree_of(config_, Path("/run/x"), port=81).children}
    control = children(top["control"], SupervisorOptions)
    reservation = msgspec.msgpack.decode(control["reservation"].args, type=ReservationOptions)
    gateways = msgspec.msgpack.decode(control["gateways"].args, type=PartitionOptions)
    gateway = msgspec.msgpack.decode(gateways.child.args, type=GatewayOptions)
    worker = next(iter(children(top["workers"], DynamicOptions).values()))
    run_by = msgspec.msgpack.decode(worker.args, type=WorkerOptions)
    assert reservation.ledger.answers == gateway.answers == run_by.answers == wanted


def test_metrics_are_shown_where_the_configuration_says() -> None:
    top = {c.id: c for c in tree_of(config(), Path("/run/x"), port=81).children}
    shown = msgspec.msgpack.decode(top["metrics"].args, type=MetricsOptions)
    assert shown.handover == "/run/x/n1/metrics"
    assert config().node.metrics_place == ("127.0.0.1", 9464)
    for told, place in (("[::1]:0", ("::1", 0)), ("", None), ("db.example:81", ("db.example", 81))):
        text = TEXT.replace("[node]", f"[node]\nmetrics = {told!r}")
        own = parse(text, folder=Path("/srv/tether"))
        assert own.node.metrics_place == place
        ids = [c.id for c in tree_of(own, Path("/run/x"), port=82).children]
        assert ("metrics" in ids) == (place is not None)


def test_metrics_are_shown_at_the_host_of_each_node() -> None:
    text = NODES.replace("[node]", '[node]\nmetrics = "{host}:9464"')
    own = parse(text, folder=Path("/srv/tether")).at("n2")
    assert own.node.metrics_place == ("10.0.0.2", 9464)


def test_the_doors_of_a_node_have_its_certificate() -> None:
    top = {c.id: c for c in tree_of(config(), Path("/run/x"), port=81).children}
    [door, _] = children(top["doors"], SupervisorOptions).values()
    plain = msgspec.msgpack.decode(door.args, type=DoorOptions)
    assert (plain.certificate, plain.key) == ("", "")
    more = '[http.tls]\ncertificate = "tls/{node}.crt"\nkey = "/etc/key.pem"\nminimum = "1.3"\n'
    top = {c.id: c for c in tree_of(config(more), Path("/run/x"), port=81).children}
    [door, _] = children(top["doors"], SupervisorOptions).values()
    options = msgspec.msgpack.decode(door.args, type=DoorOptions)
    assert options.certificate == "/srv/tether/tls/n1.crt" and options.key == "/etc/key.pem"
    assert options.tls_minimum == "1.3"


def test_with_a_dsn_no_database_is_embedded() -> None:
    own = config('[stores]\npostgres = "postgresql://db.example.org/tether"')
    assert [c.id for c in tree_of(own, Path("/run/x"), port=81).children] == [
        "metrics", "valkey", "control", "workers", "doors",
    ]  # fmt: skip
    for role in DatabaseRole:
        assert dsn_of(own, Path("/run/x"), role) == "postgresql://db.example.org/tether"
        embedded = dsn_of(config(), Path("/run/x"), role).replace("%2F", "/")
        assert "/run/x/.pg" in embedded
        assert embedded.startswith(f"postgresql://{role}@/tether?")


def test_each_kind_of_actor_connects_as_its_user() -> None:
    text = '\n[stores]\nroles = true\npostgres = "postgresql://o:secret@db:5/tether?passfile=/p"'
    control = children(
        {c.id: c for c in tree_of(config(text), Path("/run/x"), port=81).children}["control"],
        SupervisorOptions,
    )
    parts = msgspec.msgpack.decode(control["gateways"].args, type=PartitionOptions)
    told = {
        "tether_registry": msgspec.msgpack.decode(control["registry"].args, type=RegistryOptions),
        "tether_reservation": msgspec.msgpack.decode(
            control["reservation"].args, type=ReservationOptions
        ),
        "tether_gateway": msgspec.msgpack.decode(parts.child.args, type=GatewayOptions),
    }
    for user, options in told.items():
        assert options.dsn == f"postgresql://{user}@db:5/tether?passfile=/p"


def test_the_admin_may_start_all_of_it_and_nothing_else() -> None:
    def starts(specs: tuple[ChildSpec, ...]) -> set[str]:
        found = {c.start for c in specs}
        for c in specs:
            if c.kind == "supervisor":
                kind = {"workers": DynamicOptions, "gateways": PartitionOptions}.get(
                    c.id, SupervisorOptions
                )
                found |= starts(tuple(children(c, kind).values()))
        return found

    for start in starts(tree_of(config(), Path("/run/x"), port=81).children):
        assert any(
            start.startswith(entry[:-1]) if entry.endswith("*") else start == entry
            for entry in ACTOR_CLASSES
        ), start
    assert not any("*" in entry for entry in ACTOR_CLASSES)  # no engine, no artifact, no store


NODES = """
[node]
identity_dir = "identity/{node}"
data_dir = "data/{node}"
[stores]
postgres = "postgresql://db.example.org/tether"
[[nodes]]
id = "n1"
host = "10.0.0.1"
roles = ["door", "control"]
leader = true
[[nodes]]
id = "n2"
host = "10.0.0.2"
roles = ["worker"]
ports = "20000-20999"
capabilities = { vram_gb = 80 }
[[nodes]]
id = "n3"
host = "10.0.0.3"
region = "far"
leader = true
[[models]]
name = "echo"
engine = "echo"
[[models]]
name = "fast"
engine = "echo"
[[models]]
name = "large"
engine = "echo"
[[workers]]
id = "w"
models = ["echo"]
[[workers]]
id = "there"
models = ["fast"]
node = "n3"
[[workers]]
id = "big"
models = ["large"]
count = 2
requires = { vram_gb = 40 }
"""


def node(id: str) -> Config:
    return parse(NODES, folder=Path("/srv/tether")).at(id)


def top(id: str) -> dict[str, ChildSpec]:
    return {c.id: c for c in tree_of(node(id), Path("/run/x"), port=81).children}


def test_roles_leave_out_what_a_node_does_not_do() -> None:
    assert list(top("n1")) == ["metrics", "valkey", "control", "workers", "placer", "doors"]
    assert list(children(top("n1")["workers"], DynamicOptions)) == []
    assert list(children(top("n1")["control"], SupervisorOptions)) == [
        "registry", "roster", "reservation", "scheduler", "gateways",
    ]  # fmt: skip
    assert list(top("n2")) == ["metrics", "control", "workers"]
    assert list(children(top("n2")["control"], SupervisorOptions)) == ["roster"]
    assert list(top("n3")) == ["metrics", "valkey", "control", "workers", "doors"], (
        "its region has nothing to place"
    )


def test_nothing_of_the_database_is_told_at_a_node_without_control() -> None:
    for roles in ('["worker"]', '["door"]', '["door", "worker"]'):
        text = NODES.replace('["worker"]', roles).replace(
            'region = "far"', 'region = "far"\ncapabilities = { vram_gb = 80 }'
        )
        config = parse(text, folder=Path("/srv/tether")).at("n2")
        tree = tree_of(config, Path("/run/x"), port=81)
        assert b"db.example.org" not in msgspec.msgpack.encode(tree)
        assert {dsn_of(config, Path("/run/x"), role) for role in DatabaseRole} == {""}
        shown = {c.id: c for c in tree.children}
        assert "postgres" not in shown
        assert ("doors" in shown) == ("door" in roles)
        if "doors" in shown:
            door = children(shown["doors"], SupervisorOptions)["0"]
            told = msgspec.msgpack.decode(door.args, type=DoorOptions)
            assert (told.elsewhere, told.storage, told.region) == (True, "", "local")
        if "worker" in roles:
            worker = children(shown["workers"], DynamicOptions)["w.n2"]
            assert msgspec.msgpack.decode(worker.args, type=WorkerOptions).elsewhere
    assert b"db.example.org" in msgspec.msgpack.encode(tree_of(node("n3"), Path("/run/x"), port=81))


def test_workers_run_where_they_are_told_to() -> None:
    assert list(children(top("n2")["workers"], DynamicOptions)) == ["w.n2"]
    assert list(children(top("n3")["workers"], DynamicOptions)) == ["w.n3", "there.n3"]
    options = msgspec.msgpack.decode(top("n1")["placer"].args, type=PlacerOptions)
    assert [w.id for w in options.workers] == ["big-0.local", "big-1.local"]
    assert options.leaders == ("n1",)
    for worker in options.workers:
        assert worker.requires == {"vram_gb": 40, "role_worker": True}
        assert worker.restart == "temporary"
    assert [m.name for m in own_models(node("n3"))] == ["echo", "fast"]
    assert [m.name for m in own_models(node("n1"))] == []
    assert [m.name for m in possible_models(node("n2"))] == ["echo", "large"]


def test_a_worker_has_the_gpu_class_of_its_node_or_what_it_requires() -> None:
    text = NODES.replace("vram_gb = 80", 'gpu_class = "a100"').replace(
        "vram_gb = 40", 'gpu_class = "a100"'
    )

    def told(spec: ChildSpec) -> str:
        return msgspec.msgpack.decode(spec.args, type=WorkerOptions).gpu_class

    def tree(id: str) -> dict[str, ChildSpec]:
        made = parse(text, folder=Path("/srv/tether")).at(id)
        return {c.id: c for c in tree_of(made, Path("/run/x"), port=81).children}

    assert told(children(tree("n2")["workers"], DynamicOptions)["w.n2"]) == "a100"
    assert told(children(tree("n3")["workers"], DynamicOptions)["w.n3"]) == "cpu"
    placed = msgspec.msgpack.decode(tree("n1")["placer"].args, type=PlacerOptions)
    assert {told(worker) for worker in placed.workers} == {"a100"}


def test_nodes_with_workers_lend_each_other_artifacts() -> None:
    def told(id: str, artifacts: str) -> tuple[dict[str, ChildSpec], Config]:
        config = parse(NODES + artifacts, folder=Path("/srv/tether")).at(id)
        return {c.id: c for c in tree_of(config, Path("/run/x"), port=81).children}, config

    some = '[artifacts]\nreplicas = ["file:///srv/a"]\nquorum = 1\npeer_bandwidth = 2000000\n'
    with_depot, config_of_n2 = told("n2", some)
    assert list(with_depot) == ["metrics", "control", "workers", "depot"]
    depot = msgspec.msgpack.decode(with_depot["depot"].args, type=DepotOptions)
    assert depot.cache_dir == str(config_of_n2.cache_dir)
    assert depot.artifacts.trust_dir == "/srv/tether/trust"
    assert depot.artifacts.peer_bandwidth == 2_000_000
    worker = children(with_depot["workers"], DynamicOptions)["w.n2"]
    around = msgspec.msgpack.decode(worker.args, type=WorkerOptions).around
    assert around.region == "local"  # n1 has no workers, so it lends nothing
    assert [(n.id, n.region, n.admin_port) for n in around.nodes] == [
        ("n2", "local", 1900), ("n3", "far", 1900),
    ]  # fmt: skip
    assert "depot" not in told("n1", some)[0]
    for without in ("", some + "peers = false\n"):
        tree, _ = told("n2", without)
        assert "depot" not in tree
        worker = children(tree["workers"], DynamicOptions)["w.n2"]
        assert msgspec.msgpack.decode(worker.args, type=WorkerOptions).around.nodes == ()
    alone = parse(TEXT + some, folder=Path("/srv/tether"))
    assert "depot" not in {c.id for c in tree_of(alone, Path("/run/x"), port=81).children}


def test_a_roster_knows_the_others() -> None:
    control = children(top("n2")["control"], SupervisorOptions)
    roster = msgspec.msgpack.decode(control["roster"].args, type=RosterOptions)
    assert (roster.node_id, roster.region, roster.roles) == ("n2", "local", ("worker",))
    assert [(o.id, o.region, o.host) for o in roster.others] == [
        ("n1", "local", "10.0.0.1"), ("n3", "far", "10.0.0.3"),
    ]  # fmt: skip


def test_what_an_admin_is_told() -> None:
    told = capabilities_of(node("n2"), Path("/run/x"), owner_pid=7)
    assert told["Tls Identity Dir"] == "/srv/tether/identity/n2"
    assert told["Listen"] == "10.0.0.2:20000-20999"
    assert told["Routes"] == {"n1": "10.0.0.1:1900", "n3": "10.0.0.3:1900"}
    assert told["Convention Address.IPv4"] == ["n1/admin/1900"]
    assert told["vram_gb"] == 80
    assert told["role_worker"] is True
    assert NodeOptions.of(told).listen == told["Listen"]
    assert not {"role_door", "role_control"} & set(told)
    assert capabilities_of(node("n3"), Path("/r"), owner_pid=7)["Convention Address.IPv4"] == [
        "n3/admin/1900"
    ]
    alone = capabilities_of(config(), Path("/run/x"), owner_pid=7)
    assert not {"Tls Identity Dir", "Listen", "Routes", "Convention Address.IPv4"} & set(alone)


def test_a_certificate_is_looked_at_before_the_start(tmp_path: Path) -> None:
    def node_with(folder: Path, cluster: str = "tether") -> Config:
        text = NODES.replace("identity/{node}", str(folder))
        return parse(f'[cluster]\nname = "{cluster}"\n{text}', folder=tmp_path).at("n1")

    with pytest.raises(NotOfCluster, match="tether ca issue n1"):
        check_identity(node_with(tmp_path / "none"))
    authority = Authority.init(tmp_path / "ca", "tether")
    authority.issue("n1", roles=ROLES)
    authority.issue("n2", roles=ROLES)
    check_identity(node_with(authority.folder_of("n1")))
    with pytest.raises(NotOfCluster, match="this is node n1"):
        check_identity(node_with(authority.folder_of("n2")))
    with pytest.raises(NotOfCluster, match="of cluster tether"):
        check_identity(node_with(authority.folder_of("n1"), cluster="other"))
    authority.renew("n1", roles=["worker"])
    lacks = "to have the role door, control, .* says worker; `tether ca renew n1 --roles door,"
    with pytest.raises(NotOfCluster, match=lacks):
        check_identity(node_with(authority.folder_of("n1")))
    check_identity(config())
