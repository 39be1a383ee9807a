"""The policies of a model, kept between its requests."""

from __future__ import annotations

import msgspec

from actors.contracts import (
    Assignment,
    ChatInput,
    Infer,
    JobKey,
    JobState,
    ModelCard,
    ModelPolicy,
    Sampling,
)
from actors.contracts.policies import (
    BulkheadTerms,
    PolicyName,
    RateTerms,
    RequestPolicies,
    RetryTerms,
)
from actors.errors import WorkerLost
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.session_placement import SessionPlacement
from supervision.errors import (
    RateLimited,
)
from supervision.policies import GiveUp, Go, Stack

SAMPLING = Sampling(max_tokens=9)


def card(policy: ModelPolicy | None = None) -> ModelCard:
    return ModelCard(name="m", version="1", engine="echo", policy=policy or ModelPolicy())


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
