"""`[[models]]` with needs and policies, and the same rules for what operators register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.contracts import ModelPolicy
from actors.contracts.policies import RateTerms, RequestPolicies
from actors.core.model_options import read_model
from actors.core.policy_options import ModelPolicyOptions, read_policy
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
    assert card.policy == ModelPolicy(
        tenants=("acme",), regions=("eu",), max_tokens=10, concurrency=2, slo="interactive",
        canary_share=0.5, warm="always",
    )  # fmt: skip


def test_both_kinds_of_policy_are_the_same() -> None:
    """The configuration's, which is checked, and the contract's, which travels."""
    assert ModelPolicyOptions.__struct_fields__ == ModelPolicy.__struct_fields__
    for field in ModelPolicyOptions.__struct_fields__:
        assert getattr(ModelPolicyOptions(), field) == getattr(ModelPolicy(), field)


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        (('slo = "interactive"', 'slo = "fast"'), "slo"),
        (("canary_share = 0.5", "canary_share = 1.1"), "canary_share"),
        (("canary_share = 0.5", "canary_share = nan"), "canary_share"),
        (("canary_share = 0.5", "canary_share = true"), "canary_share"),
        (("max_tokens = 10", "max_tokens = -1"), "max_tokens"),
        (("max_tokens = 10", "max_token = 1"), "max_token"),
        (("concurrency = 2", 'concurrency = "two"'), "concurrency"),
        (('tenants = ["acme"]', 'tenants = "acme"'), "tenants"),
        (('tenants = ["acme"]', 'tenants = ["ACME"]'), "tenants"),
        (('regions = ["eu"]', 'regions = [""]'), "regions"),
        (('warm = "always"', 'warm = "never"'), "warm"),
    ],
)
def test_a_mistake_in_a_policy_is_named(changed: tuple[str, str], path: str) -> None:
    assert changed[0] in TEXT
    with pytest.raises(ConfigInvalid) as caught:
        parse(TEXT.replace(*changed), folder=Path())
    assert [p.path for p in caught.value.problems] == [f"models[0].policy.{path}"]


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


@pytest.mark.parametrize(
    ("changed", "path", "told"),
    [
        (("bulkhead", "bulkhed"), "policies.order[0]", "'bulkhed' is not known; it may be 'rate'"),
        (("bulkhead", "retry"), "policies.order[2]", "'retry' stands there twice"),
        (("attempts = 5", "attempts = 0"), "policies.retry.attempts", "but it is 0"),
        (("attempts = 5", "pause_s = 6"), "policies.retry.pause_s", "6 s is longer"),
        (("attempts = 5", "atempts = 5"), "policies.retry.atempts", "did you mean 'attempts'?"),
        (('"rate", ', ""), "models[1].policy.rate", "don't pass 'rate'; add it to order (retry,"),
        (("per_s = 20", "per_s = 0"), "models[1].policy.rate.per_s", "but it is 0"),
    ],
)
def test_a_mistake_in_the_policies_is_named(changed: tuple[str, str], path: str, told: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(POLICIES.replace(*changed, 1), folder=Path())
    assert [p.path for p in caught.value.problems] == [path]
    assert told in caught.value.problems[0].sentence


def test_a_policy_by_itself() -> None:
    assert read_policy({"slo": "batch"}) == ModelPolicyOptions(slo="batch")
    for wrong in (3, {"slo": 3}, {"x": 1}):
        with pytest.raises(ConfigInvalid):
            read_policy(wrong)
