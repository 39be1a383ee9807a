"""Policies of models, as the configuration says them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.contracts import ModelPolicy
from actors.core.policy_options import ModelPolicyOptions, read_policy
from supervision.settings import ConfigInvalid
from tether.config import parse

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
