"""What a job is settled with, and by whom."""

from __future__ import annotations

from actors.contracts import (
    Assignment,
    Finish,
    JobState,
    Outcome,
    Usage,
)
from actors.core.journal import Journal
from actors.errors import WorkerLost
from actors.gateway.session_settlement import Settles, settle_of, settled_by, usage_of
from supervision.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    Overloaded,
)


def given(
    token: int = 1, state: JobState = JobState.NEW, job_id: str = "own", claim: int = 0
) -> Assignment:
    return Assignment(
        job_id=job_id, worker_id="w", worker_address=f"n/w{token}/0", fencing_token=token,
        state=state, claim_token=claim,
    )  # fmt: skip


# ---- settlement


def test_what_a_job_is_closed_with() -> None:
    journal = Journal()
    journal.prompt_ids = (1, 2)
    journal.add((3,), "x", 0)
    heard = Usage(prompt_tokens=2, completion_tokens=1)
    failed = settle_of(given(4), journal, Outcome.FAILED, WorkerLost("x"))
    assert failed is not None
    assert (failed.fencing_token, failed.usage, failed.error_code, failed.delivered) == (
        4, Usage(), "worker_lost", False,
    )  # fmt: skip
    late = settle_of(given(4), journal, Outcome.FAILED, DeadlineExceeded("x"))
    assert late is not None
    assert (late.outcome, late.usage) == (Outcome.FAILED, heard)
    left = settle_of(given(4), journal, Outcome.CANCELLED, Cancelled("x"))
    assert left is not None
    assert left.usage == heard
    journal.close(Finish.STOP, Usage(prompt_tokens=2, completion_tokens=5), "m@1")
    assert usage_of(journal, Outcome.CANCELLED) == heard
    completed = settle_of(given(4), journal, Outcome.COMPLETED, None)
    assert completed is not None
    assert (completed.usage.completion_tokens, completed.finish, completed.delivered) == (
        5, "stop", True,
    )  # fmt: skip


def test_who_closes_a_job() -> None:
    journal = Journal()
    assert settle_of(None, journal, Outcome.FAILED, Overloaded("x")) is None
    assert settle_of(given(), journal, Outcome.FAILED, Draining("x")) is None
    done = given(state=JobState.COMPLETED)
    assert settle_of(done, journal, Outcome.CANCELLED, Cancelled("x")) is None
    assert settled_by(Outcome.COMPLETED, streaming=True) is Settles.WORKER
    assert settled_by(Outcome.COMPLETED, streaming=True, attached=True) is Settles.GATEWAY
    assert settled_by(Outcome.CANCELLED, streaming=True) is Settles.WORKER_OR_LATER
    assert settled_by(Outcome.CANCELLED, streaming=False) is Settles.GATEWAY
    assert settled_by(Outcome.FAILED, streaming=True) is Settles.GATEWAY
    assert settled_by(Outcome.FAILED, streaming=False, late=True) is Settles.WORKER_OR_LATER
