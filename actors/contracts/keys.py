"""Whose a key is, said before anything else of a request is looked at. Pure."""

from __future__ import annotations

from supervision.contracts.contract import Contract


class Authenticate(Contract, frozen=True):
    """Front door → gateway, asked: whose key is this? Answered with `Authenticated`, or raises
    `Unauthenticated`. Whatever is asked with the key afterwards is checked again."""

    credential: str


class Authenticated(Contract, frozen=True):
    """It is one of `tenant_id`'s; that of an `operator` may change the registry. `key_id` is for
    histories and logs, where the key itself must not stand."""

    tenant_id: str
    key_id: str
    operator: bool = False
