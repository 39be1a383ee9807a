"""Attempts of a session: placed, broken, placed again."""

from __future__ import annotations

import pytest

from actors.contracts import (
    Assignment,
    Attach,
    ChatInput,
    Infer,
    JobKey,
    JobState,
    ModelCard,
    ModelPolicy,
    Run,
    Sampling,
    Slo,
)
from actors.contracts.policies import (
    PolicyName,
    RequestPolicies,
    RetryTerms,
    TimeoutTerms,
)
from actors.core.journal import Journal
from actors.errors import AnswerGone, WorkerLost
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.session_placement import SessionPlacement
from supervision.errors import (
    DeadlineExceeded,
    NoAnswer,
    Overloaded,
    PeerLost,
    TetherError,
)
from supervision.policies import Stack

SAMPLING = Sampling(max_tokens=9)


def card(policy: ModelPolicy | None = None) -> ModelCard:
    return ModelCard(name="m", version="1", engine="echo", policy=policy or ModelPolicy())


def stack_of(*order: PolicyName, **said: object) -> Stack:
    policy = ModelPolicy(order=order, **said)  # type: ignore[arg-type]
    return ModelPolicies(RequestPolicies()).of(card(policy), 0.0).stack


def placement(stack: Stack | None = None, **infer: object) -> SessionPlacement:
    asked = Infer(
        correlation_id="c", credential="k", model_ref="m", input=ChatInput(messages=()),
        sampling=SAMPLING, retry_token="t", **infer,  # type: ignore[arg-type]
    )  # fmt: skip
    job = JobKey(job_id="own", tenant_id="acme", retry_token="t", fingerprint=b"", model_ref="m@1")
    stack = stack or ModelPolicies(RequestPolicies()).of(card(), 0.0).stack
    return SessionPlacement(asked, job, stack.begin(60.0), 0.0)


def given(
    token: int = 1, state: JobState = JobState.NEW, job_id: str = "own", claim: int = 0
) -> Assignment:
    return Assignment(
        job_id=job_id, worker_id="w", worker_address=f"n/w{token}/0", fencing_token=token,
        state=state, claim_token=claim,
    )  # fmt: skip


# ---- placement


def test_the_tokens_say_whose_the_job_is_over_all_attempts() -> None:
    session = placement()
    assert session.admit(0.0)
    first = session.place(SAMPLING, Slo.STANDARD, 1.0, 111)
    assert (first.ownership.attempt, first.ownership.claim_token, first.deadline_s) == (1, 111, 59)
    assert first.ownership.held_claim_token == 0
    assert session.assigned(given(claim=111, job_id="older"), 1.0)
    assert isinstance(session.order(given(), Journal(), SAMPLING, 1.0), Run)
    broken = session.broken(PeerLost("gone"), 2.0, lost=False, began=True, cold=False)
    assert broken is not None
    assert session.goes_on(broken, 2.0) is None
    assert session.admit(2.0)
    second = session.place(SAMPLING, Slo.STANDARD, 2.0, 222)
    assert second.job.job_id == "older"
    assert (second.ownership.attempt, second.ownership.held_claim_token) == (2, 111)
    assert second.avoid == ("n/w1/0",)


def test_a_place_that_nobody_waited_for_counts_as_an_attempt_of_its_own() -> None:
    session = placement()
    assert session.admit(0.0)
    session.place(SAMPLING, Slo.STANDARD, 0.0, 1)
    session.unheard()
    assert session.begun, "the attempt itself goes on"
    assert session.place(SAMPLING, Slo.STANDARD, 0.0, 2).ownership.attempt == 2


def test_who_is_led_to_the_run_that_it_left_asks_again_and_not_for_ever() -> None:
    session = placement(stack_of(PolicyName.RETRY, retry=RetryTerms(refusals=1)))
    assert session.admit(0.0)
    assert session.assigned(given(), 0.0)
    running = given(state=JobState.RUNNING, claim=7)
    assert not session.assigned(running, 0.0)
    assert session.admit(0.0)
    assert session.place(SAMPLING, Slo.STANDARD, 0.0, 8).ownership.held_claim_token == 7
    with pytest.raises(WorkerLost, match="others take this job"):
        session.assigned(running, 0.0)


@pytest.mark.parametrize(
    ("error", "lost", "cold", "expected"),
    [
        (AnswerGone("x"), False, False, (WorkerLost, True, True, True, "")),
        (PeerLost("x"), False, False, (PeerLost, False, False, True, "n/w1/0")),
        (WorkerLost("x"), True, False, (WorkerLost, True, False, False, "n/w1/0")),
        (Overloaded("x"), False, True, (Overloaded, False, False, True, "n/w1/0")),
    ],
)
def test_how_an_attempt_broke(
    error: TetherError, lost: bool, cold: bool, expected: tuple[object, ...]
) -> None:
    session = placement()
    session.admit(0.0)
    session.assigned(given(), 0.0)
    broken = session.broken(error, 1.0, lost=lost, began=False, cold=cold)
    assert broken is not None
    assert (type(broken.error), *broken[1:]) == expected


def test_a_worker_that_has_said_something_is_not_silent() -> None:
    session = placement(stack_of(PolicyName.TIMEOUT, timeout=TimeoutTerms(attempt_s=5)))
    session.admit(0.0)
    session.assigned(given(), 0.0)
    journal = Journal()
    journal.add((1,), "x", 0)
    session.order(given(), journal, SAMPLING, 0.0)  # to continue from there
    journal.add((2,), "y", 1)
    assert not session.expires(journal, 5.1)
    assert session.silent_until == float("inf"), "it isn't asked about again"


@pytest.mark.parametrize("cold", [False, True])
def test_a_worker_that_was_silent_is_at_fault_unless_it_still_loads(cold: bool) -> None:
    session = placement(
        stack_of(PolicyName.RETRY, PolicyName.TIMEOUT, timeout=TimeoutTerms(attempt_s=5))
    )
    assert session.admit(0.0)
    assert session.silent_until == float("inf"), "it waits for a worker, which is nobody's fault"
    session.assigned(given(), 3.0)
    journal = Journal()
    session.order(given(), journal, SAMPLING, 3.0)
    assert session.silent_until == 8.0
    assert not session.expires(journal, 8.0)
    assert session.expires(journal, 8.1)
    broken = session.broken(WorkerLost("ended"), 8.1, lost=True, began=False, cold=cold)
    assert broken is not None
    assert (broken.error.code, broken.lost) == ("unavailable", False)
    assert (broken.ok, broken.neutral) == (cold, cold)
    assert session.goes_on(broken, 8.1) is None
    assert session.silent_until == float("inf")


def test_an_answer_that_is_gone_is_computed_again_only_for_who_waits_for_its_end() -> None:
    done = given(token=3, state=JobState.COMPLETED)
    for waits in (False, True):
        session = placement(is_resume=waits)
        session.admit(0.0)
        session.assigned(done, 0.0)
        assert isinstance(session.order(done, Journal(), SAMPLING, 0.0), Attach)
        broken = session.broken(PeerLost("x"), 0.0, lost=False, began=False, cold=False)
        assert (broken is not None) is waits
    assert broken is not None
    assert session.goes_on(broken, 0.0) is None
    session.admit(0.0)
    assert session.place(SAMPLING, Slo.STANDARD, 0.0, 1).ownership.lost_fencing_token == 3


def test_the_last_failure_is_said_as_it_is_and_a_late_one_is_late() -> None:
    for now, error in ((1.0, WorkerLost), (60.0, DeadlineExceeded)):
        once = RetryTerms(attempts=1)
        session = placement(stack_of(PolicyName.DEADLINE, PolicyName.RETRY, retry=once))
        session.admit(0.0)
        session.assigned(given(), 0.0)
        broken = session.broken(PeerLost("x"), now, lost=False, began=True, cold=False)
        assert broken is not None
        assert type(session.goes_on(broken, now)) is error
        session.close(now, completed=False)


def test_who_does_not_answer_is_asked_again_until_the_deadline_and_within_a_bound() -> None:
    session = placement(
        stack_of(PolicyName.DEADLINE, PolicyName.RETRY, retry=RetryTerms(refusals=2))
    )
    for number in (1, 2):
        assert session.admit(1.0)
        assert session.place(SAMPLING, Slo.STANDARD, 1.0, 9).ownership.attempt == number
        assert session.unanswered(NoAnswer("it hangs"), 1.0) is None
    session.admit(59.9)
    assert isinstance(session.unanswered(NoAnswer("it hangs"), 59.9), NoAnswer)
    late = placement()
    late.admit(0.0)
    assert isinstance(late.unanswered(NoAnswer("it hangs"), 60.0), DeadlineExceeded)
