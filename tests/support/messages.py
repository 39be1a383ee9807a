"""Orders for a job, made and changed by the names of their fields, and of those of their values."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from actors.contracts import JobKey, Ownership, Place, Reserve
from actors.core.ids import job_id

Order = TypeVar("Order", Place, Reserve)


def key(**changes: Any) -> JobKey:
    """A job of tenant acme, with an id of its own."""
    values: dict[str, Any] = {
        "job_id": job_id(),
        "tenant_id": "acme",
        "retry_token": "t",
        "fingerprint": b"body",
        "model_ref": "m@1",
    }
    return JobKey(**(values | changes))


def reserve(retry_token: str = "t", **changes: Any) -> Reserve:
    """A first ask for worker w1."""
    fresh = Reserve(
        job=key(retry_token=retry_token),
        worker_id="w1",
        worker_address="n1/w1/1",
        deadline_s=60.0,
    )
    return changed(fresh, **changes)


def changed(order: Order, **changes: Any) -> Order:
    """`order` with other fields, of its own, its job's or its asker's ownership."""

    def of(value: type[msgspec.Struct]) -> dict[str, Any]:
        return {name: changes.pop(name) for name in value.__struct_fields__ if name in changes}

    return msgspec.structs.replace(
        order,
        job=msgspec.structs.replace(order.job, **of(JobKey)),
        ownership=msgspec.structs.replace(order.ownership, **of(Ownership)),
        **changes,
    )
