"""The most that a request may use, and what a client gets that gives no `max_tokens`."""

from __future__ import annotations

from typing import Any

import pytest

from actors.contracts import (
    EmbeddingInput,
    Infer,
    Maximum,
    ModelCard,
    ModelPolicy,
    Sampling,
    TextInput,
)
from actors.gateway.request_maximum import maximum
from actors.gateway.request_validation import valid_request

CARD = ModelCard(name="m", version="1", engine="echo", context=200)


def infer(**changes: Any) -> Infer:
    fields: dict[str, Any] = {
        "correlation_id": "c",
        "credential": "k",
        "model_ref": "m",
        "input": TextInput(prompt="abc"),
        "sampling": Sampling(max_tokens=100),
        "retry_token": "t",
    }
    return Infer(**(fields | changes))


def test_prompt_and_answer_together_are_bounded_by_the_context() -> None:
    assert maximum(infer(), Sampling(max_tokens=100), CARD) == Maximum(
        prompt_tokens=67, output_tokens=100, total_tokens=200, exact=True
    )
    long = infer(input=TextInput(prompt="a" * 500), max_tokens_given=False)
    assert maximum(long, Sampling(max_tokens=150), CARD) == Maximum(
        prompt_tokens=200, output_tokens=150, total_tokens=200, exact=False
    )


def test_texts_to_embed_have_a_context_each_and_no_answer() -> None:
    texts = infer(input=EmbeddingInput(texts=("a" * 150, "b" * 150)))
    assert maximum(texts, Sampling(max_tokens=1), CARD) == Maximum(
        prompt_tokens=428, output_tokens=0, total_tokens=428, exact=True
    )


@pytest.mark.parametrize(
    ("given", "reserve", "asked", "gets"),
    [
        (True, 50, 100, 100),
        (False, 50, 100, 50),
        (False, 0, 100, 100),
        (False, 0, 256, 200),  # the front door's default, in a smaller context
        (False, 150, 100, 100),
    ],
)
def test_without_max_tokens_the_policy_says_how_long_an_answer_is(
    given: bool, reserve: int, asked: int, gets: int
) -> None:
    card = ModelCard(
        name="m",
        version="1",
        engine="echo",
        context=200,
        policy=ModelPolicy(reserve_tokens=reserve),
    )
    msg = infer(sampling=Sampling(max_tokens=asked), max_tokens_given=given)
    assert valid_request(msg, card, "acme", {}).sampling.max_tokens == gets
