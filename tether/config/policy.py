"""Who may use a model, where, and how much, as `[models.policy]` says it. Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from actors.contracts.catalog import Slo, Warming
from actors.contracts.policies import (
    BulkheadTerms,
    DeadlineTerms,
    PolicyOrder,
    RateTerms,
    RetryTerms,
    TimeoutTerms,
)
from tether.config.section import Section, Tenant, Word

_Tokens = Annotated[int, Meta(ge=0, le=1 << 24)]
_Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class ModelPolicyOptions(Section, frozen=True, kw_only=True):
    """`tenants` and `regions` of whom nobody is named are all of them. `max_tokens` bounds one
    answer, `concurrency` the requests of one tenant at one gateway (0: no limit). While it is a
    canary, `canary_share` of the requests that name no version go to it. `warm` "always": its
    workers load it at once and keep it. `order` are the policies that its requests pass, outermost
    first; what it doesn't say of them is as `[policies]` says. See `actors.contracts.ModelPolicy`,
    which it becomes."""

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
