"""Models as the configuration and files say them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.contracts import ModelPolicy
from actors.contracts.policies import RateTerms, RequestPolicies
from actors.core.model_options import read_model
from supervision.settings import ConfigInvalid
from tether.config import parse
from tether.node.plan import card_of

TEXT = """
[[models]]
name = "m"
engine = "transformers"
source = "models/m"
adapter = "adapters/a"
gpu_class = "h100"
memory_mib = 900
special_tokens_in_text = true
[models.policy]
tenants = ["acme"]
regions = ["eu"]
max_tokens = 10
concurrency = 2
slo = "interactive"
canary_share = 0.5
warm = "always"
[[workers]]
id = "w"
models = ["m"]
"""
GOOD: dict[str, Any] = {"name": "m", "engine": "transformers", "source": "/m"}


def test_a_model_of_the_configuration_becomes_a_card() -> None:
    config = parse(TEXT, folder=Path("/srv"))
    card = card_of(config, config.models[0])
    assert (card.source, card.adapter) == ("/srv/models/m", "/srv/adapters/a")
    assert (card.gpu_class, card.memory_mib) == ("h100", 900)
    assert card.special_tokens_in_text
    assert card.policy == ModelPolicy(
        tenants=("acme",), regions=("eu",), max_tokens=10, concurrency=2, slo="interactive",
        canary_share=0.5, warm="always",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "a@1"}, "name"),
        ({"version": "a b"}, "version"),
        ({"engine": "abacus"}, "engine"),
        ({"source": ""}, "source"),
        ({"source": "artifact:sha256:12"}, "source"),
        ({"source": "package:"}, "source"),
        ({"source": "/a\0"}, "source"),
        ({"adapter": "artifact:12"}, "adapter"),
        ({"engine": "embedding", "adapter": "/a"}, "adapter"),
        ({"context": 3}, "context"),
        ({"dtype": "int3"}, "dtype"),
        ({"gpu_class": "a b"}, "gpu_class"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"special_tokens_in_text": 1}, "special_tokens_in_text"),
        ({"policy": {"slo": "best"}}, "policy.slo"),
        ({"policy": 3}, "policy"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_mistake_in_one_model_is_named_as_in_a_file(changes: dict[str, Any], path: str) -> None:
    assert read_model(GOOD).ref == "m@1"
    with pytest.raises(ConfigInvalid) as caught:
        read_model(GOOD | changes)
    assert [p.path for p in caught.value.problems] == [path]


POLICIES = """
[policies]
order = ["bulkhead", "deadline", "retry"]
retry = { attempts = 5 }
[[models]]
name = "echo"
engine = "echo"
[[models]]
name = "own"
engine = "echo"
[models.policy]
order = ["rate", "retry", "timeout"]
rate = { per_s = 20, burst = 40 }
[[workers]]
id = "w"
models = ["*"]
"""


def test_a_model_passes_its_own_policies_and_otherwise_those_of_all() -> None:
    config = parse(POLICIES, folder=Path("/srv"))
    echo, own = (
        card_of(config, read_model).policy.policies(config.policies) for read_model in config.models
    )
    assert echo == config.policies
    assert [name for name, _ in echo.terms()] == ["bulkhead", "deadline", "retry"]
    assert [name for name, _ in own.terms()] == ["rate", "retry", "timeout"]
    assert (own.rate, own.retry.attempts) == (RateTerms(per_s=20, burst=40), 5)
    assert RequestPolicies().order == ("deadline", "retry")
