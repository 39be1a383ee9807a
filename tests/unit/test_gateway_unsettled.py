"""Answers that a lost worker left to settle."""

from __future__ import annotations

from actors.contracts import (
    Outcome,
    Settle,
    Usage,
)
from actors.gateway.unsettled import Unsettled, UnsettledAnswers


def test_answers_to_settle_for_a_worker_that_is_gone() -> None:
    def settle(job_id: str) -> Unsettled:
        return Unsettled(
            Settle(job_id=job_id, fencing_token=1, outcome=Outcome.COMPLETED, usage=Usage())
        )

    unsettled = UnsettledAnswers(bound=3, keep_s=5.0)
    for number, worker in enumerate(("w1", "w2", "w1", "w2")):
        unsettled.add(worker, settle(f"j{number}"), float(number))
    assert [s.settle.job_id for s in unsettled.take("w1")] == ["j2"], "j0 was the oldest of four"
    assert unsettled.take("w1") == []
    unsettled.sweep(6.5)
    assert [s.settle.job_id for s in unsettled.take("w2")] == ["j3"]
    assert len(unsettled) == 0
