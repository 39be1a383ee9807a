"""The limits of tenants, as operators see and change them.

Pure.
"""

from __future__ import annotations

from supervision.contracts.contract import Contract, Value


class OwnLimits(Value, frozen=True):
    """What a tenant may use a minute, and at once; None is the configuration's default."""

    tenant_id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None


class SetLimits(Contract, frozen=True):
    """An operator's process → registry: from now on the tenant has these, and no others; answered
    with `LimitsShown` of them."""

    limits: OwnLimits
    by: str = ""


class ShowLimits(Contract, frozen=True):
    """An operator's process → registry: the limits of all tenants, or of one, from after the name
    `after` on, as many as one answer holds."""

    tenant_id: str = ""
    after: str = ""


class LimitsShown(Contract, frozen=True):
    """In the order of the tenants' names. `more`: there are others after them."""

    limits: tuple[OwnLimits, ...]
    more: bool = False
