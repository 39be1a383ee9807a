"""What becomes of a request whose key was sent before, as far as a gateway decides it."""

from __future__ import annotations

from typing import Any

import pytest

from actors.contracts import Infer, Outcome, Sampling, TextInput
from actors.errors import ContextExceeded
from actors.gateway.idempotency import answer_gone, goes_on, joined, key_of
from supervision.errors import Cancelled, Conflict, DeadlineExceeded, Draining, TetherError


def infer(**changes: Any) -> Infer:
    values: dict[str, Any] = {
        "correlation_id": "c",
        "credential": "k",
        "model_ref": "m",
        "input": TextInput(prompt="x"),
        "sampling": Sampling(),
        "retry_token": "t",
        "endpoint": "chat",
    }
    return Infer(**(values | changes))


def test_a_key_is_of_its_tenant_and_its_endpoint() -> None:
    keys = {
        key_of(infer(**changes), tenant)
        for tenant in ("acme", "bolt")
        for changes in ({}, {"endpoint": "completions"}, {"retry_token": "u"})
    }
    assert len(keys) == 6
    assert key_of(infer(stream=False), "acme") in keys


@pytest.mark.parametrize(
    ("outcome", "join", "joins"),
    [
        (None, True, True),
        (Outcome.COMPLETED, True, True),
        (Outcome.COMPLETED, False, True),
        (Outcome.FAILED, True, False),
        (Outcome.CANCELLED, False, False),
        (Outcome.EXPIRED, True, False),
    ],
)
def test_what_is_joined(outcome: Outcome | None, join: bool, joins: bool) -> None:
    assert joined(infer(join=join), outcome) is joins


def test_what_runs_is_not_joined_by_who_does_not_want_to() -> None:
    with pytest.raises(Conflict, match="runs") as caught:
        joined(infer(join=False), None)
    assert (caught.value.code, caught.value.status) == ("conflict", 409)
    assert joined(infer(join=False, is_resume=True), None), "it is its own"


@pytest.mark.parametrize(
    ("explicit", "tokens", "error", "goes"),
    [
        (True, 3, DeadlineExceeded("late"), True),
        (True, 3, Cancelled("left"), True),
        (False, 3, DeadlineExceeded("late"), False),
        (True, 0, DeadlineExceeded("late"), False),
        (True, 3, ContextExceeded("too much"), False),
        (True, 3, Draining("elsewhere"), False),
        (True, 3, None, False),
    ],
)
def test_what_is_gone_on_from(
    explicit: bool, tokens: int, error: TetherError | None, goes: bool
) -> None:
    assert goes_on(explicit, tokens, error) is goes


def test_a_receipt_that_is_not_known_is_not_made_up() -> None:
    assert answer_gone(None).details == {}
