"""Options of a gateway."""

from __future__ import annotations

import msgspec

from actors.contracts.policies import RequestPolicies
from actors.core.answer_options import AnswerOptions
from actors.gateway.admission import TenantLimits
from actors.gateway.session import SessionBounds
from actors.reservation.settle_spool import SpoolOptions
from actors.stores.limit_store import LimitStoreOptions


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and times of a gateway, in seconds.

    `limits` are those of a tenant whose row has none. What tenants use is added up in `store`, by
    `parts` gateways, of which each holds a tenant to its part while that is away; without a `store`
    this gateway counts alone. Of all limits it has `limit_share`, where others have the rest and
    no common store. `grace_s` is how long a session with an
    explicit token runs on without a listener after its front door was lost. `policies` are what
    a request passes unless its model's policy says otherwise.
    `answers` says of which requests the finished answers are kept.
    `unsettled` answers per gateway are remembered for `remember_s`, to settle them if their
    worker dies before it did; what no reservation takes goes into the `spool` of the node. Leases
    of what is placed are renewed every `renew_s`.

    Raises:
        ValueError: a value is out of its range.
    """

    dsn: str
    limits: TenantLimits = TenantLimits(
        requests_per_minute=6_000, tokens_per_minute=2_000_000, concurrency=256
    )
    store: LimitStoreOptions = LimitStoreOptions()
    parts: int = 1
    limit_share: float = 1.0
    sessions: SessionBounds = SessionBounds()
    policies: RequestPolicies = RequestPolicies()
    answers: AnswerOptions = AnswerOptions()
    grace_s: float = 10.0
    keys: int = 10_000
    key_s: float = 60.0
    unknown_key_s: float = 5.0
    tenants: int = 10_000
    unsettled: int = 32_768
    remember_s: float = 5.0
    max_deadline_s: float = 3600.0
    spool: SpoolOptions = SpoolOptions()
    renew_s: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.limit_share <= 1:
            raise ValueError("limit_share of a gateway is above 0, and not above 1")
        for name in ("keys", "tenants", "unsettled", "parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a gateway must be at least 1")
        for name in (
            "grace_s",
            "key_s",
            "unknown_key_s",
            "remember_s",
            "max_deadline_s",
            "renew_s",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of a gateway must be above 0")
