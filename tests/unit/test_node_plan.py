"""From the configuration to the tree."""

from __future__ import annotations

from pathlib import Path

import msgspec

from actors.gateway import GatewayOptions
from actors.reservation import ReservationOptions
from actors.worker import WorkerOptions
from supervision import ChildSpec, DynamicOptions, PartitionOptions, SupervisorOptions
from tether.config import Config, parse
from tether.http.options import DoorOptions
from tether.node.capabilities import ACTOR_CLASSES
from tether.node.plan import dsn_of, tree_of

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
    assert list(top) == ["postgres", "control", "workers", "doors"]
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
    assert [card.source for card in worker.cards] == ["", "/srv/tether/models/tiny"]
    doors = children(top["doors"], SupervisorOptions)
    assert list(doors) == ["0", "1"]
    door = msgspec.msgpack.decode(doors["0"].args, type=DoorOptions)
    assert (door.port, door.share_port, door.gateways) == (81, True, 3)
    assert doors["0"].shutdown == workers["w-0"].shutdown == 7


def test_what_reservation_keeps_and_for_how_long() -> None:
    stores = "[stores]\nkeep_jobs_days = 2.0\nkeep_ledger_days = 400.0\n"
    for more, jobs, ledger in (("", 30, 0), (stores, 2, 400)):
        top = {c.id: c for c in tree_of(config(more), Path("/run/x"), port=81).children}
        reservation = children(top["control"], SupervisorOptions)["reservation"]
        kept = msgspec.msgpack.decode(reservation.args, type=ReservationOptions).ledger
        assert (kept.keep_jobs_s, kept.keep_ledger_s) == (jobs * 86_400, ledger * 86_400)


def test_with_a_dsn_no_database_is_embedded() -> None:
    own = config('[stores]\npostgres = "postgresql://db.example.org/tether"')
    assert [c.id for c in tree_of(own, Path("/run/x"), port=81).children] == [
        "control", "workers", "doors",
    ]  # fmt: skip
    assert dsn_of(own, Path("/run/x")) == "postgresql://db.example.org/tether"
    assert "/run/x/.pg" in dsn_of(config(), Path("/run/x")).replace("%2F", "/")


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
    assert not any("tether.".startswith(entry.rstrip("*")) for entry in ACTOR_CLASSES)
