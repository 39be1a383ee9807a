"""What gateways ask of the store of limits, and what it says; amounts are in units of the bucket,
requests or tokens. Pure."""

from __future__ import annotations

from typing import NamedTuple


class BucketOrder(NamedTuple):
    """`delta` is added to the bucket in any case (negative: a debt), then at least `least` is
    taken, or nothing, and up to `most` in whole units if there is as much. `hint` is how full it
    would be as far as is known, should the store have lost it; None: nobody knows."""

    delta: float = 0.0
    least: float = 0.0
    most: float = 0.0
    hint: float | None = None


class BucketReply(NamedTuple):
    """What was taken, and what is left for all."""

    granted: float
    level: float


class PermitOrder(NamedTuple):
    """`want` to hold in all; not below `must`, which run already. Nothing is counted where
    `limit` is 0."""

    limit: int = 0
    want: int = 0
    must: int = 0


class PermitReply(NamedTuple):
    """What this gateway may hold, and what all of them do."""

    granted: int
    total: int


class TenantOrder(NamedTuple):
    """All that a gateway asks for one tenant. A bucket whose limit is 0 isn't touched."""

    tenant_id: str
    requests_limit: float
    tokens_limit: float
    requests: BucketOrder
    tokens: BucketOrder
    permits: PermitOrder


class TenantReply(NamedTuple):
    """What came of a `TenantOrder`."""

    requests: BucketReply
    tokens: BucketReply
    permits: PermitReply
