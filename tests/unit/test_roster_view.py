"""The fleet of all nodes, as one of them sees it."""

from __future__ import annotations

from actors.contracts import Fleet, HealthReport
from actors.roster.fleet_snapshot import FleetSnapshot
from actors.roster.roster_view import RosterView


def worker(node: str, name: str = "w", **fields: object) -> HealthReport:
    """Is called like `w.n1`, and stands at `n1/w/1`."""
    values: dict[str, object] = {
        "worker_id": f"{name}.{node}",
        "node_id": node,
        "address": f"{node}/{name}/1",
        "region": "eu",
        "slots": 2,
        "running": 0,
        "queued": 0,
        "models": ("echo@1",),
        "epoch": 1,
        "sequence": 1,
    }
    return HealthReport(**(values | fields))  # type: ignore[arg-type]


def ids(view: RosterView) -> list[str]:
    return [worker.worker_id for worker in view.fleet.workers]


def view_of_two() -> RosterView:
    view = RosterView(alone=False)
    view.own(Fleet(version=1, workers=(worker("n1"),)))
    view.put("n2", (worker("n2"), worker("n2", "v")))
    return view


def test_alone_it_is_the_own_fleet():
    view = RosterView(alone=True)
    roster = FleetSnapshot()
    roster.observe(worker("n1"), 0.0)
    view.own(roster.fleet)
    assert view.fleet is roster.fleet


def test_nobody_takes_the_place_of_another():
    view = view_of_two()
    thief = worker("n3", worker_id="w.n1", slots=999)
    twice = worker("n4", worker_id="w.n2")
    assert view.put("n3", (thief,))
    assert view.put("n4", (twice,))
    assert ids(view) == ["w.n1", "w.n2", "v.n2", "n3/w.n1", "n4/w.n2"]
    assert view.fleet.workers[0].slots == 2


def test_all_workers_of_all_nodes():
    view = view_of_two()
    assert ids(view) == ["w.n1", "w.n2", "v.n2"]
    assert {w.address for w in view.fleet.workers} == {"n1/w/1", "n2/w/1", "n2/v/1"}
    assert view.addresses == {"n2/w/1", "n2/v/1"}
    assert [w.worker_id for w in view.of("n2")] == ["w.n2", "v.n2"]


def test_it_changes_when_something_does_and_its_version_grows():
    view = view_of_two()
    fleet = view.fleet
    assert not view.put("n2", (worker("n2", sequence=9), worker("n2", "v", memory_bytes=7)))
    assert view.fleet is fleet
    versions = [fleet.version]
    for change in (
        lambda: view.put("n2", (worker("n2", running=1), worker("n2", "v"))),
        lambda: view.put("n2", (worker("n2", running=1),)),
        lambda: view.doubt(frozenset(["n2"])),
        lambda: view.doubt(frozenset()),
        lambda: view.drop("n2"),
    ):
        assert change()
        versions.append(view.fleet.version)
    assert not view.drop("n2")
    assert not view.doubt(frozenset())
    assert versions == sorted(set(versions))
    assert ids(view) == ["w.n1"]


def test_suspects_are_those_of_suspect_nodes_and_late_own_ones():
    view = view_of_two()
    view.own(Fleet(version=2, workers=(worker("n1"), worker("n1", "v")), suspects=("v.n1",)))
    view.put("n3", (worker("n3"),))
    view.doubt(frozenset(["n3", "n4"]))
    assert view.fleet.suspects == ("v.n1", "w.n3")


def test_a_worker_out_of_reach_is_left_out_longer_each_time():
    view = view_of_two()
    assert view.lost("n2/w/1", 10.0)
    assert ids(view) == ["w.n1", "v.n2"]
    assert view.addresses == {"n2/v/1"}
    those = view.of("n2")
    assert not view.look(99.0), "its node hasn't spoken of it since"
    view.put("n2", those)
    assert view.look(99.0)
    assert "w.n2" in ids(view)
    starts = ((100.0, 1.0), (120.0, 2.0), (130.0, 4.0), (140.0, 8.0), (150.0, 8.0), (200.0, 1.0))
    for start, out_s in starts:
        assert view.lost("n2/w/1", start)
        view.put("n2", those)
        assert not view.look(start + out_s - 0.1)
        assert view.look(start + out_s)


def test_losses_of_the_unknown_change_no_fleet_and_are_bounded():
    view = view_of_two()
    for n in range(5000):
        view.lost(f"n9/{n}/1", 1.0)
    assert len(view._lost) == len(view._unconfirmed) == 4096
    assert ids(view) == ["w.n1", "w.n2", "v.n2"]


def test_a_model_of_another_digest_is_another_model():
    view = RosterView(alone=False)
    ours = worker("n1", models=("echo@1", "new@1"), digests=("a", ""))
    view.own(Fleet(version=1, workers=(ours,)))
    same = worker("n2", models=("echo@1",), digests=("a",))
    other = worker("n3", models=("echo@1", "big@1", "new@1"), digests=("b", "c", "d"))
    silent = worker("n4")
    for node, said in (("n2", same), ("n3", other), ("n4", silent)):
        view.put(node, (said,))
    models = {w.worker_id: w.models for w in view.fleet.workers}
    assert models["w.n2"] == ("echo@1",)
    assert models["w.n3"] == ("big@1", "new@1")
    assert models["w.n4"] == ("echo@1",), "who doesn't say is believed"
    assert view.conflicts == (("w.n3", "echo@1"),)
