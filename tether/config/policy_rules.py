"""What concerns several options of the policies that requests pass. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actors.contracts.policies import PolicyName, RequestPolicies
from tether.config.policy import ModelPolicyOptions
from tether.config.problem import Problem


def policy_violations(
    said: ModelPolicyOptions | RequestPolicies, prefix: str, order: Sequence[PolicyName] = ()
) -> Iterator[Problem]:
    """What is wrong with `[policies]`, or a model's policy; `prefix` stands before the names of
    its fields. `order` is that of all models, which counts where a model has none; without any,
    what it leaves out isn't judged."""
    for number, name in enumerate(said.order):
        if name in said.order[:number]:
            yield Problem(
                f"{prefix}order[{number}]", f"{str(name)!r} stands there twice; remove one"
            )
    retry = said.retry
    if retry is not None and retry.pause_s > retry.max_pause_s:
        yield Problem(
            f"{prefix}retry.pause_s",
            f"{retry.pause_s:g} s is longer than max_pause_s ({retry.max_pause_s:g} s); lower it",
        )
    if isinstance(said, RequestPolicies):
        return  # what its own order leaves out, a model's may hold
    passed = said.order or order
    for name in PolicyName:
        if passed and name not in passed and getattr(said, name) is not None:
            yield Problem(
                f"{prefix}{name}",
                f"requests to this model don't pass {str(name)!r}; add it to order "
                f"({', '.join(passed)} now), or remove this",
            )
