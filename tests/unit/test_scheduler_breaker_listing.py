"""What operators see of breakers, and the gauge."""

from __future__ import annotations

import pytest

from actors.contracts import SetBreaker
from actors.scheduler import metrics
from actors.scheduler.breaker_listing import BreakerListing
from actors.scheduler.worker_breakers import WorkerBreakers
from supervision.errors import BadRequest
from supervision.policies import Ended


def figure(worker: str) -> float:
    samples = metrics.breaker_state.collect()[0].samples
    return next(sample.value for sample in samples if sample.labels["worker"] == worker)


def test_the_gauge_says_what_the_states_say() -> None:
    breakers = WorkerBreakers()
    shown = BreakerListing(breakers)
    breaker = breakers.of(("shown-1", "m@1"))
    breakers.of(("shown-2", "m@1"))
    seen = []
    for step in (
        lambda: None,
        lambda: [breaker.leave(breaker.enter(1.0), Ended.FAILED, 1.0) for _ in range(10)],
        lambda: breaker.enter(6.0),
        lambda: shown.set(SetBreaker(worker_id="shown-1", mode="forced_open"), 6.0),
        lambda: shown.set(SetBreaker(worker_id="shown-1", mode="disabled", model_ref="m@1"), 6.0),
        lambda: shown.set(SetBreaker(worker_id="shown-1", mode="automatic"), 6.0),
    ):
        step()
        shown.publish()
        state = shown.states(6.0).breakers[0]
        seen.append((figure("shown-1"), state.mode, state.state))
    assert seen == [
        (0, "automatic", "closed"),
        (2, "automatic", "open"),
        (1, "automatic", "half_open"),
        (3, "forced_open", "closed"),
        (4, "disabled", "closed"),
        (0, "automatic", "closed"),
    ]
    assert figure("shown-2") == 0
    with pytest.raises(BadRequest, match="one of automatic, forced_open, disabled"):
        shown.set(SetBreaker(worker_id="shown-1", mode="ajar"), 6.0)
    with pytest.raises(BadRequest, match="list them first"):
        shown.set(SetBreaker(worker_id="shown-3", mode="disabled"), 6.0)


def test_what_was_forgotten_reads_closed() -> None:
    breakers = WorkerBreakers(bound=1)
    shown = BreakerListing(breakers)
    breaker = breakers.of(("shown-4", "m@1"))
    for _ in range(10):
        breaker.leave(breaker.enter(1.0), Ended.FAILED, 1.0)
    shown.publish()
    assert figure("shown-4") == 2
    breakers.of(("shown-5", "m@1"))
    shown.publish()
    assert figure("shown-4") == 0


def test_a_worker_that_has_no_breaker_yet_can_be_told() -> None:
    breakers = WorkerBreakers()
    shown = BreakerListing(breakers, workers={"cold"})
    assert shown.set(SetBreaker(worker_id="cold", mode="forced_open"), 1.0).breakers == ()
    state = shown.states(1.0)
    assert [(s.worker_id, s.model_ref, s.mode) for s in state.workers] == [
        ("cold", "", "forced_open")
    ]
    assert not breakers.of(("cold", "m@1")).passes(9.0)
    with pytest.raises(BadRequest, match="list them first"):
        shown.set(SetBreaker(worker_id="cold", mode="disabled", model_ref="other@1"), 1.0)
    shown.set(SetBreaker(worker_id="cold", mode="automatic"), 2.0)
    assert shown.states(2.0).workers == ()
    assert breakers.of(("cold", "m@1")).passing
