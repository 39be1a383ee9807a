"""How many requests of a tenant run on a model."""

from __future__ import annotations

import pytest

from actors.contracts import (
    ModelCard,
    ModelPolicy,
)
from actors.gateway.model_concurrency import ModelConcurrency
from supervision.errors import RateLimited


def card(engine: str = "gguf", **policy: object) -> ModelCard:
    return ModelCard(name="m", version="1", engine=engine, policy=ModelPolicy(**policy))  # type: ignore[arg-type]


def test_a_tenant_runs_so_many_requests_on_a_model() -> None:
    running, bounded = ModelConcurrency(), card(concurrency=2)
    for _ in range(2):
        running.enter("acme", bounded)
    with pytest.raises(RateLimited):
        running.enter("acme", bounded)
    running.enter("other", bounded)
    running.enter("acme", bounded, resumed=True)
    for _ in range(3):
        running.leave("acme", bounded)
    running.leave("other", bounded)
    assert len(running) == 0
    running.enter("acme", card())
    running.leave("acme", card())
    assert len(running) == 0
