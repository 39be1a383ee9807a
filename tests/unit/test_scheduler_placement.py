from __future__ import annotations

from random import Random

import msgspec
import pytest

from actors.contracts import Fleet, HealthReport
from actors.roster.fleet_snapshot import FleetSnapshot
from actors.scheduler.placement import COLD_AFTER_S, Placement
from supervision.policies import NEVER, Ended, Mode


def report(worker_id: str, **fields: object) -> HealthReport:
    values: dict[str, object] = {
        "worker_id": worker_id,
        "node_id": "n1",
        "address": f"n1/{worker_id}",
        "region": "eu",
        "slots": 2,
        "running": 0,
        "queued": 0,
        "models": ("echo@1",),
        "epoch": 1,
        "sequence": 1,
    }
    return HealthReport(**(values | fields))  # type: ignore[arg-type]


def placement(*reports: HealthReport, now: float = 0.0, **fleet: object) -> Placement:
    made = Placement("eu", Random(1).random)
    made.see(Fleet(version=1, workers=reports, **fleet), now)  # type: ignore[arg-type]
    return made


def fill(made: Placement, count: int, now: float = 0.0, model: str = "echo@1") -> list[str]:
    chosen = []
    for number in range(count):
        seat = made.choose(model, (), now)
        if seat is None:
            break
        made.take(seat, f"job-{len(chosen)}-{number}-{now}", now, now + 60)
        chosen.append(seat.worker_id)
    return chosen


def test_slots_are_filled_evenly_and_never_overfilled() -> None:
    made = placement(report("a", slots=8), report("b", slots=8))
    chosen = fill(made, 20)
    assert len(chosen) == 16
    for half in (chosen[:8], chosen[8:]):
        assert abs(half.count("a") - half.count("b")) <= 4
    assert made.choose("echo@1", (), 0.0) is None


def test_only_workers_that_answer_for_the_model_and_do_not_drain() -> None:
    made = placement(
        report("a", models=("other@1",)), report("b", draining=True), report("c"), report("d")
    )
    assert set(fill(made, 9)) == {"c", "d"}
    assert made.serves("other@1")
    assert not made.serves("nothing@1")
    assert sorted(made.models()) == ["echo@1", "other@1"]


def test_the_own_region_first_then_the_other() -> None:
    made = placement(report("far", region="us", slots=8), report("near", slots=2))
    assert fill(made, 3) == ["near", "near", "far"]


def test_ranks_hold_whatever_the_load_and_the_faults():
    """The own region, then the other, then suspects of the own region, then of the other."""
    near = report("a", slots=8)
    made = placement(
        near,
        report("b", region="us", slots=2),
        report("c", slots=2),
        report("d", region="us", slots=2),
        suspects=("c", "d"),
    )
    end(made, "a", Ended.FAILED, 1.0)
    assert fill(made, 20, now=2.0) == ["a"] * 8 + ["b"] * 2 + ["c"] * 2 + ["d"] * 2


def test_what_schedulers_of_other_nodes_have_there_is_seen_but_no_bound():
    busy = report("a", slots=8, running=6, placed_by=(("n1", 1), ("n2", 5)))
    made = Placement("eu", Random(1).random)
    made.node = "n1"
    made.see(Fleet(version=1, workers=(busy, report("b", slots=8))), 0.0)
    assert fill(made, 4) == ["b"] * 4
    assert sorted(fill(made, 20, now=0.5)) == ["a"] * 8 + ["b"] * 4
    later = report("a", slots=8, running=5, placed_by=(("n2", 5),), sequence=2)
    made.see(Fleet(version=2, workers=(later, report("b", slots=8))), 7.0)
    assert made.in_flight == 8, "those on b; what runs on a is none of ours"


def test_avoid_knows_addresses_and_ids() -> None:
    made = placement(report("a"), report("b"))
    for avoid in ("a", "n1/a"):
        seat = made.choose("echo@1", (avoid,), 0.0)
        assert seat is not None
        assert seat.worker_id == "b"
    assert not made.serves("echo@1", ("a", "n1/b"))
    assert made.choose("echo@1", ("a", "b"), 0.0) is None


def cold(worker_id: str, **fields: object) -> HealthReport:
    return report(worker_id, **({"models": (), "loadable": ("echo@1",)} | fields))


def test_who_answers_goes_before_who_would_load_it() -> None:
    made = placement(cold("a", slots=8), report("b", slots=2))
    assert fill(made, 9) == ["b", "b"]
    assert made.choose("echo@1", (), 0.0, COLD_AFTER_S - 0.1) is None
    seat = made.choose("echo@1", (), 0.0, COLD_AFTER_S)
    assert seat is not None
    assert seat.worker_id == "a", "the others are full and somebody has waited"
    assert list(made.models()) == ["echo@1"]


def test_all_requests_for_a_cold_model_go_to_one_worker_whoever_places_them() -> None:
    workers = [cold(worker_id, slots=8) for worker_id in "abcd"]
    one, other = placement(*workers), placement(*workers)
    chosen = {*fill(one, 8), *fill(other, 8)}
    assert len(chosen) == 1
    assert one.choose("echo@1", (), 0.0) is None, "it is full, and no second one is asked"
    second = one.choose("echo@1", (), 0.0, COLD_AFTER_S)
    assert second is not None
    assert second.worker_id not in chosen
    assert placement(*workers).serves("echo@1")


def test_who_loads_it_already_and_who_has_most_to_spare_comes_first() -> None:
    small = cold("a", budget_bytes=100, model_bytes=90)
    large = cold("b", budget_bytes=100, model_bytes=20)
    assert fill(placement(small, large), 1) == ["b"]
    assert fill(placement(small, large, cold("c", budget_bytes=0)), 1) == ["c"]
    loading = msgspec.structs.replace(small, loadable=(), loading=("echo@1",))
    assert fill(placement(loading, large), 1) == ["a"]
    assert fill(placement(loading, large, suspects=("a",)), 1) == ["b"]


def test_another_one_is_asked_when_the_first_can_not_load_it() -> None:
    made = placement(cold("a"), cold("b"))
    first = made.choose("echo@1", (), 0.0)
    assert first is not None
    made.take(first, "job", 0.0, 60.0, "echo@1")
    made.release(first.worker_id, "job", 1.0, Ended.REFUSED)
    second = made.choose("echo@1", (first.address,), 1.0)
    assert second is not None
    assert second is not first
    assert made.choose("echo@1", (), 1.1) is second, "from now on"


def test_a_full_worker_is_not_waited_for_where_another_would_load_it() -> None:
    made = placement(cold("a", slots=1), cold("b", slots=1))
    first = made.choose("echo@1", (), 0.0)
    assert first is not None
    made.take(first, "other", 0.0, 60.0, "other@1")
    made._loaders.clear()
    second = made.choose("echo@1", (), 0.0)
    assert second is not None
    assert second is not first


def test_a_cold_worker_whose_breaker_is_open_is_not_asked() -> None:
    made = placement(cold("a"))
    made.breakers.of(("a", "echo@1")).set(Mode.FORCED_OPEN, 0.0)
    assert made.choose("echo@1", (), 1.0) is None
    assert made.shut_until("echo@1", 1.0) == NEVER


def end(made: Placement, worker_id: str, ended: Ended, now: float, times: int = 1) -> None:
    """So many jobs on this worker come to this."""
    others = tuple(other for other in "abcd" if other != worker_id)
    for number in range(times):
        seat = made.choose("echo@1", others, now)
        assert seat is not None
        made.take(seat, f"{now}-{number}", now, now + 60, "echo@1")
        made.release(worker_id, f"{now}-{number}", now, ended)
        seat.shed_until = 0.0


def test_a_worker_that_failed_is_second_choice_for_a_while() -> None:
    made = placement(report("a", slots=8), report("b", slots=8))
    end(made, "a", Ended.FAILED, 0.0)
    assert set(fill(made, 4, now=1.0)) == {"b"}
    assert set(fill(made, 8, now=20.0)) == {"a", "b"}


@pytest.mark.parametrize("ended", [Ended.FAILED, Ended.REFUSED])
def test_a_worker_that_shed_is_left_alone_for_a_moment(ended: Ended) -> None:
    made = placement(report("a"))
    fill(made, 1)
    made.release("a", "job-0-0-0.0", 0.0, ended)
    assert made.choose("echo@1", (), 0.05) is None
    assert made.choose("echo@1", (), 0.15) is not None


def test_a_worker_that_mostly_fails_gets_nothing_then_one_probe_then_everything() -> None:
    made = placement(report("a"), report("b", slots=8))
    end(made, "a", Ended.FAILED, 1.0, times=10)
    assert made.choose("echo@1", ("b",), 5.9) is None
    assert made.shut_until("echo@1", 2.0) is None, "b answers"
    seat = made.choose("echo@1", ("b",), 6.0)
    assert seat is not None
    made.take(seat, "probe", 6.0, 66.0, "echo@1")
    assert made.choose("echo@1", ("b",), 6.0) is None, "one probe at a time, though a slot is free"
    made.release("a", "probe", 6.1, Ended.COMPLETED)
    assert made.choose("echo@1", ("b",), 6.1) is seat


def test_a_probe_that_nobody_settles_makes_room_when_its_job_is_forgotten() -> None:
    made = placement(report("a"))
    end(made, "a", Ended.FAILED, 1.0, times=10)
    seat = made.choose("echo@1", (), 6.0)
    assert seat is not None
    made.take(seat, "probe", 6.0, 10.0, "echo@1")
    assert made.expire(10.0) == ["probe"]
    assert made.choose("echo@1", (), 10.0) is seat


def test_all_shut_is_told_from_all_busy_and_from_none() -> None:
    made = placement(report("a"), report("b"))
    fill(made, 4)
    assert made.shut_until("echo@1", 1.0) is None
    assert made.shut_until("nothing@1", 1.0) is None
    made = placement(report("a"), report("b"))
    end(made, "a", Ended.FAILED, 1.0, times=10)
    end(made, "b", Ended.FAILED, 2.0, times=10)
    assert made.shut_until("echo@1", 3.0) == 6.0
    assert made.shut_until("echo@1", 6.0) is None, "a probe may go"


def test_the_breaker_of_one_model_says_nothing_of_another() -> None:
    made = placement(report("a", models=("echo@1", "other@1")))
    end(made, "a", Ended.FAILED, 1.0, times=10)
    assert made.choose("echo@1", (), 2.0) is None
    assert made.choose("other@1", (), 2.0) is not None


def test_a_new_start_begins_with_a_closed_breaker_unless_an_operator_shut_it() -> None:
    made = placement(report("a"))
    end(made, "a", Ended.FAILED, 1.0, times=10)
    made.see(Fleet(version=2, workers=(report("a", epoch=2, address="n1/new"),)), 2.0)
    assert made.choose("echo@1", (), 2.0) is not None
    made.breakers.of(("a", "echo@1")).set(Mode.FORCED_OPEN, 2.0)
    made.see(Fleet(version=3, workers=(report("a", epoch=3, address="n1/newer"),)), 3.0)
    assert made.choose("echo@1", (), 3.0) is None
    assert made.shut_until("echo@1", 3.0) == NEVER


def test_a_suspect_is_second_choice() -> None:
    made = placement(report("a"), report("b"), suspects=("a",))
    assert fill(made, 2) == ["b", "b"]
    assert fill(made, 1) == ["a"]


def test_a_restarted_worker_starts_empty_and_the_old_one_frees_nothing() -> None:
    made = placement(report("a", slots=1))
    assert fill(made, 2) == ["a"]
    made.see(Fleet(version=2, workers=(report("a", slots=1, epoch=2, address="n1/new"),)), 1.0)
    seat = made.choose("echo@1", ("n1/a",), 1.0)
    assert seat is not None
    assert seat.address == "n1/new"
    assert not made.release("a", "job-0-0-0.0", 1.0)


def test_release_is_safe_twice() -> None:
    made = placement(report("a", slots=1))
    fill(made, 1)
    assert made.release("a", "job-0-0-0.0", 1.0)
    assert not made.release("a", "job-0-0-0.0", 1.0)
    assert not made.release("nobody", "job-0-0-0.0", 1.0)
    assert made.in_flight == 0


def test_jobs_that_a_dead_gateway_forgot_leave_with_the_next_report() -> None:
    first = report("a", slots=4)
    made = placement(first)
    fill(made, 3)
    same = msgspec.structs.replace(first, sequence=2, running=1)
    made.see(Fleet(version=2, workers=(same,)), 3.0)
    assert made.in_flight == 3, "too young to judge"
    later = msgspec.structs.replace(first, sequence=3, running=1)
    made.see(Fleet(version=3, workers=(later,)), 7.0)
    assert made.in_flight == 1
    assert made.expire(59.0) == []
    assert made.expire(60.0) == ["job-2-2-0.0"]


def ids(roster: FleetSnapshot) -> list[str]:
    return [worker.worker_id for worker in roster.fleet.workers]


def test_a_silent_worker_is_suspected_then_dropped_and_may_come_back() -> None:
    roster = FleetSnapshot(expiry_s=15, suspect_s=8)
    assert roster.observe(report("a"), 0.0)
    assert not roster.expire(7.0)
    assert roster.expire(8.0)
    assert roster.fleet.suspects == ("a",)
    assert roster.observe(report("a", sequence=2), 9.0)
    assert roster.fleet.suspects == ()
    assert not roster.expire(16.9)
    assert roster.expire(24.0)
    assert ids(roster) == []
    assert not roster.observe(report("a", sequence=2), 25.0), "a replay"
    assert roster.observe(report("a", sequence=3), 25.0)
    assert ids(roster) == ["a"]


def test_a_dead_start_does_not_come_back_but_the_next_one_does() -> None:
    roster = FleetSnapshot()
    roster.observe(report("a", epoch=5, sequence=9), 0.0)
    assert roster.lost("a", 5)
    assert not roster.lost("a", 5)
    assert not roster.observe(report("a", epoch=5, sequence=10), 0.1), "was on its way"
    assert roster.observe(report("a", epoch=6, sequence=1), 0.2)
    assert not roster.lost("a", 5), "late news of the old start"
    assert ids(roster) == ["a"]


def test_replays_and_older_reports_change_nothing() -> None:
    roster = FleetSnapshot()
    roster.observe(report("a", epoch=2, sequence=5, running=1), 0.0)
    version = roster.fleet.version
    for epoch, sequence in ((2, 5), (2, 4), (1, 99)):
        assert not roster.observe(report("a", epoch=epoch, sequence=sequence), 1.0)
    assert roster.fleet.version == version
    assert roster.refused == 3


def test_a_report_without_news_keeps_the_snapshot_but_counts_as_life() -> None:
    roster = FleetSnapshot()
    roster.observe(report("a"), 0.0)
    fleet = roster.fleet
    assert not roster.observe(report("a", sequence=2, memory_bytes=5), 14.0)
    assert roster.fleet is fleet
    assert not roster.expire(20.0)
    assert roster.observe(report("a", sequence=3, running=1), 20.0)
    assert roster.fleet.version > fleet.version


def test_the_number_of_workers_is_bounded() -> None:
    roster = FleetSnapshot(max_workers=2)
    for name in "abc":
        roster.observe(report(name), 0.0)
    assert ids(roster) == ["a", "b"]
    assert roster.refused == 1


def test_versions_only_grow() -> None:
    roster = FleetSnapshot()
    versions = [roster.fleet.version]
    for change in (
        lambda: roster.observe(report("a"), 0.0),
        lambda: roster.observe(report("b"), 0.0),
        lambda: roster.observe(msgspec.structs.replace(report("a"), sequence=2, slots=9), 0.0),
        lambda: roster.lost("b", 1),
        lambda: roster.expire(99.0),
    ):
        assert change()
        versions.append(roster.fleet.version)
    assert versions == sorted(set(versions))
