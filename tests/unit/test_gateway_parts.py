"""The parts of a request's session, and of the gateway that holds it: decisions without a loop."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from actors.contracts import (
    Assignment,
    Attach,
    ChatInput,
    Finish,
    Infer,
    JobKey,
    JobState,
    ModelCard,
    ModelPolicy,
    Outcome,
    Run,
    Sampling,
    Slo,
    Usage,
)
from actors.contracts.policies import (
    BulkheadTerms,
    PolicyName,
    RateTerms,
    RequestPolicies,
    RetryTerms,
    TimeoutTerms,
)
from actors.core.journal import Journal
from actors.errors import AnswerGone, WorkerLost
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.session_placement import SessionPlacement
from actors.gateway.session_reading import Deserted, SessionReading
from actors.gateway.session_settlement import Settles, settle_of, settled_by, usage_of
from supervision.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    NoAnswer,
    Overloaded,
    PeerLost,
    RateLimited,
    TetherError,
)
from supervision.policies import GiveUp, Go, Stack
from supervision.runtime.cancel_cause import CancelCause

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


# ---- reading


@pytest.mark.parametrize(
    ("why", "explicit", "left"),
    [
        (None, True, Deserted.ENDS),
        (CancelCause.CANCELLED, True, Deserted.ENDS),
        (CancelCause.PEER_LOST, False, Deserted.ENDS),
        (CancelCause.PEER_LOST, True, Deserted.WAITS),
        (CancelCause.STOPPING, False, Deserted.STAYS),
    ],
)
async def test_what_becomes_of_a_session_that_its_last_listener_leaves(
    why: CancelCause | None, explicit: bool, left: Deserted
) -> None:
    reading = SessionReading(asyncio.get_running_loop())
    reading.enter()
    reading.enter()
    assert reading.leave(why, explicit=explicit, now=5.0) is None, "another one listens"
    assert reading.leave(why, explicit=explicit, now=5.0) is left
    assert reading.left_at == (5.0 if left is Deserted.WAITS else None)
    reading.enter()
    assert reading.left_at is None


# ---- settlement


def test_what_a_job_is_closed_with() -> None:
    journal = Journal()
    journal.prompt_ids = (1, 2)
    journal.add((3,), "x", 0)
    heard = Usage(prompt_tokens=2, completion_tokens=1)
    failed = settle_of(given(4), journal, Outcome.FAILED, WorkerLost("x"))
    assert failed is not None
    assert (failed.fencing_token, failed.usage, failed.error_code, failed.delivered) == (
        4, heard, "worker_lost", False,
    )  # fmt: skip
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
    assert settled_by(Outcome.CANCELLED, streaming=True) is Settles.WORKER_OR_LATER
    assert settled_by(Outcome.CANCELLED, streaming=False) is Settles.GATEWAY
    assert settled_by(Outcome.FAILED, streaming=True) is Settles.GATEWAY


# ---- the policies of models


def test_a_stack_is_kept_until_its_policy_is_another_one() -> None:
    policies = ModelPolicies(RequestPolicies())
    busy = card(ModelPolicy(order=(PolicyName.BULKHEAD,), bulkhead=BulkheadTerms(at_once=1)))
    first = policies.of(busy, 0.0)
    inside = first.stack.begin()
    assert type(inside.admit(0.0)) is Go
    again = msgspec.structs.replace(busy, stage_s=9.0, policy=msgspec.convert(
        msgspec.to_builtins(busy.policy), ModelPolicy
    ))  # fmt: skip
    assert policies.of(again, 1.0) is first
    refused = policies.of(again, 1.0).stack.begin().admit(1.0)
    assert isinstance(refused, GiveUp)
    assert type(first.counting.begin().admit(1.0)) is Go, "it was let in before"
    wider = msgspec.structs.replace(busy, policy=ModelPolicy(rate=RateTerms()))
    other = policies.of(wider, 2.0)
    assert other is not first
    assert len(policies) == 1
    assert other.policies.order == (PolicyName.DEADLINE, PolicyName.RETRY)
    inside.cancel(3.0)


def test_models_share_a_budget_unless_one_has_a_retry_of_its_own() -> None:
    policies = ModelPolicies(RequestPolicies(retry=RetryTerms(budget_floor=0, budget_ratio=0.0)))
    own = card(ModelPolicy(retry=RetryTerms(budget_floor=1, budget_ratio=0.0)))
    shared = msgspec.structs.replace(card(), version="2")
    broke = WorkerLost("broke")
    for model, goes_on in ((own, True), (own, False), (shared, False)):
        session = placement(policies.of(model, 0.0).stack)
        session.admit(0.0)
        session.assigned(given(), 0.0)
        broken = session.broken(broke, 0.0, lost=False, began=True, cold=False)
        assert broken is not None
        assert (session.goes_on(broken, 0.0) is None) is goes_on
    assert policies.retries() == (1, 2)
    policies.of(msgspec.structs.replace(own, policy=ModelPolicy()), 0.0)
    assert policies.retries() == (0, 2), "what was refused stays counted"


def test_operators_see_policies_with_options_and_state() -> None:
    policies = ModelPolicies(RequestPolicies())
    order = (PolicyName.RATE, PolicyName.RETRY, PolicyName.BULKHEAD, PolicyName.TIMEOUT)
    model = card(ModelPolicy(order=order, rate=RateTerms(per_s=1, burst=2)))
    call = policies.of(model, 0.0).stack.begin()
    call.admit(0.0)
    rate, retry, bulkhead, timeout = policies.states([model], 0.0)
    assert (rate.name, rate.options, rate.own, rate.state) == (
        "rate", (("per_s", 1.0), ("burst", 2.0)), True, "1 left",
    )  # fmt: skip
    assert (retry.own, retry.state) == (False, "0 of 100 retries spent")
    assert bulkhead.state == "1 inside"
    assert (timeout.model_ref, timeout.state) == ("m@1", "")
    refused = [policies.of(model, 0.0).stack.begin().admit(0.0) for _ in range(2)][-1]
    assert isinstance(refused, GiveUp)
    assert isinstance(refused.error, RateLimited)
