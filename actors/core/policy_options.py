"""Options of a model's policy, `[models.policy]`: who may use it, where, how much, and which
policies its requests pass. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta

from actors.contracts.catalog import Slo, Warming
from actors.contracts.policies import (
    BulkheadTerms,
    DeadlineTerms,
    PolicyName,
    PolicyOrder,
    RateTerms,
    RequestPolicies,
    RetryTerms,
    TimeoutTerms,
)
from supervision.settings import ConfigInvalid, Problem, Section, Word, read_section

Tenant = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")]
_Tokens = Annotated[int, Meta(ge=0, le=1 << 24)]
_Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class ModelPolicyOptions(Section, frozen=True, kw_only=True):
    """`tenants` and `regions` of whom nobody is named are all of them. `max_tokens` bounds one
    answer, `concurrency` the requests of one tenant at one gateway (0: no limit). While it is a
    canary, `canary_share` of the requests that name no version go to it. `warm` "always": its
    workers load it at once and keep it. `order` are the policies that its requests pass, outermost
    first; what it doesn't say of them is as `[policies]` says. `reserve_tokens` bound an answer
    whose client gives no `max_tokens`. See `actors.contracts.ModelPolicy`, which it becomes."""

    tenants: Annotated[tuple[Tenant, ...], Meta(max_length=1024)] = ()
    regions: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    max_tokens: _Tokens = 0
    concurrency: _Count = 0
    slo: Slo = Slo.STANDARD
    canary_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    warm: Warming = Warming.DEMAND
    order: PolicyOrder = ()
    rate: RateTerms | None = None
    deadline: DeadlineTerms | None = None
    retry: RetryTerms | None = None
    bulkhead: BulkheadTerms | None = None
    timeout: TimeoutTerms | None = None
    reserve_tokens: _Tokens = 0


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


def read_policy(raw: object) -> ModelPolicyOptions:
    """One `[models.policy]`.

    Raises:
        ConfigInvalid: with all mistakes.
    """
    problems: list[Problem] = []
    read = read_section(ModelPolicyOptions, raw, "", problems, {})
    if read is not None:
        problems += policy_violations(read, "")
    if read is None or problems:
        raise ConfigInvalid(tuple(problems))
    return read
