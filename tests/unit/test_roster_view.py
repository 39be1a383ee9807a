"""The fleet of all nodes, as one of them sees it."""

from __future__ import annotations

from actors.contracts import Fleet, HealthReport, ModelCard
from actors.core.model_digest import digest_of
from actors.roster.fleet_snapshot import FleetSnapshot
from actors.roster.model_meanings import without
from actors.roster.roster_view import RosterView
from actors.roster.worker_names import WorkerNames

OTHERS = ("n2", "n3", "n4")


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
    view = RosterView("n1", OTHERS)
    view.own(Fleet(version=1, workers=(worker("n1"),)))
    view.put("n2", (worker("n2"), worker("n2", "v")))
    return view


def test_alone_it_is_the_own_fleet():
    view = RosterView("n1")
    roster = FleetSnapshot()
    roster.observe(worker("n1"), 0.0)
    view.own(roster.fleet)
    assert view.fleet is roster.fleet


def test_nobody_takes_the_place_of_another():
    view = view_of_two()
    thief = worker("n3", worker_id="w.n1", slots=999)
    twice = worker("n2", "u", worker_id="w.n4", slots=999)
    those = view.of("n2")
    assert view.put("n3", (thief,))
    assert view.put("n2", (*those, twice))
    assert ids(view) == ["w.n1", "w.n2", "v.n2", "n2/w.n4", "n3/w.n1"]
    assert view.fleet.workers[0].slots == 2
    assert view.put("n4", (worker("n4"),)), "it comes later, and it is its name"
    assert ids(view) == ["w.n1", "w.n2", "v.n2", "n2/w.n4", "n3/w.n1", "w.n4"]
    assert view.claims == (("n2", "w.n4", ""), ("n3", "w.n1", ""))
    assert view.drop("n4")
    assert "w.n4" not in ids(view)


def test_a_name_of_no_node_is_whose_it_was():
    view = view_of_two()
    view.put("n3", (worker("n3", worker_id="chat.eu"),))
    assert "chat.eu" in ids(view)
    view.put("n2", (*view.of("n2"), worker("n2", "u", worker_id="chat.eu")))
    assert ids(view) == ["w.n1", "w.n2", "v.n2", "n2/chat.eu", "chat.eu"]
    view.own(Fleet(version=2, workers=(worker("n1"), worker("n1", "v", worker_id="chat.eu"))))
    assert ids(view) == ["w.n1", "chat.eu", "w.n2", "v.n2", "n2/chat.eu", "n3/chat.eu"]
    view.own(Fleet(version=3, workers=()))
    view.drop("n3")
    assert ids(view) == ["w.n2", "v.n2", "chat.eu"], "who had it is gone"


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
    view = RosterView("n1", OTHERS)
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
    assert view.claims == (("n3", "w.n3", "echo@1"),)


def test_a_digest_that_is_in_use_is_not_replaced():
    view = RosterView("n1", OTHERS)
    view.put("n3", (worker("n3", digests=("a",)),))
    assert view.fleet.workers[0].models == ("echo@1",)
    view.put("n2", (worker("n2", digests=("b",)),))
    assert {w.worker_id: w.models for w in view.fleet.workers} == {"w.n2": (), "w.n3": ("echo@1",)}
    view.drop("n3")
    assert [w.models for w in view.fleet.workers] == [("echo@1",)], "nobody else uses it"


def test_the_catalog_says_what_a_model_is_and_own_workers_do_before_it():
    card = ModelCard(name="echo", version="1", engine="echo")
    view = RosterView("n1", OTHERS)
    view.put("n2", (worker("n2", digests=("b",)),))
    view.put("n3", (worker("n3", digests=(digest_of(card),)),))
    assert [w.models for w in view.fleet.workers] == [("echo@1",), ()]
    assert view.offered((card,))
    assert not view.offered((card,))
    assert [w.models for w in view.fleet.workers] == [(), ("echo@1",)]
    view.own(Fleet(version=1, workers=(worker("n1", digests=("b",)),)))
    assert [w.models for w in view.fleet.workers] == [("echo@1",), ("echo@1",), ()]


def test_a_worker_of_ours_at_another_node_says_nothing_of_others():
    view = RosterView("n1", OTHERS)
    placed = worker("n1", "x", address="n2/x/1", worker_id="x.eu", digests=("b",))
    view.own(Fleet(version=1, workers=(placed, worker("n1", digests=("a",)))))
    assert {w.worker_id: w.models for w in view.fleet.workers} == {
        "w.n1": ("echo@1",),
        "x.eu": (),
    }
    assert view.claims == (("n2", "x.eu", "echo@1"),)


def test_what_is_taken_from_a_worker_leaves_the_rest_as_it_was():
    said = worker(
        "n2", models=("a@1", "b@1", "c@1"), digests=("1", "2", "3"), abilities=("x", "y"),
        loadable=("b@1", "d@1"), loading=("b@1",),
    )  # fmt: skip
    left = without(said, frozenset(["b@1"]))
    assert (left.models, left.digests, left.abilities) == (("a@1", "c@1"), ("1", "3"), ("x",))
    assert (left.loadable, left.loading) == (("d@1",), ())


def test_the_longest_end_says_whose_a_name_is():
    names = WorkerNames("n1", ("b", "a.b"))
    assert [names.owner(name) for name in ("w.n1", "w.a.b", "w.b", "w.eu", "n1", "w.n1.eu")] == [
        "n1", "a.b", "b", "", "", "",
    ]  # fmt: skip
