"""The limits of tenants, for operators: shown and changed, on record in the audit log."""

from __future__ import annotations

from typing import Final

import msgspec

from actors.contracts.tenant_limits import LimitsShown, OwnLimits, SetLimits, ShowLimits
from actors.core.budget import bounded
from actors.registry.audited import audited
from actors.stores import tenant_limits
from actors.stores.database import Database
from actors.stores.tenant_limits import TenantLimitRow
from supervision.child import Supervised
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR
from supervision.telemetry import logs

log = logs.get(__name__)
SET: Final = "limits set"


class LimitRecords:
    """The part of a registry that answers what operators ask of limits."""

    def __init__(self, actor: Supervised, database: Database) -> None:
        self._actor = actor
        self._database = database

    @on(SetLimits, of=OPERATOR)
    async def set_limits(self, msg: SetLimits, sender: Address) -> LimitsShown:
        """
        Raises:
            BadRequest: a number is out of range, or there is no such tenant.
            Unavailable: PostgreSQL, or the audit log, is away.
        """
        said = msg.limits
        bounded("tenant", said.tenant_id)
        words = (
            said.tenant_id,
            f"requests={said.requests_per_minute}",
            f"tokens={said.tokens_per_minute}",
            f"concurrency={said.max_concurrency}",
        )
        asked = TenantLimitRow(**msgspec.structs.asdict(said))
        async with audited(self._actor, msg.by, sender, SET, words):
            row = await tenant_limits.replaced(self._database, asked)
        log.info("limits of a tenant were changed", tenant=row.tenant_id, by=msg.by or sender.node)
        return LimitsShown(limits=(_own(row),))

    @on(ShowLimits, of=OPERATOR)
    async def show_limits(self, msg: ShowLimits, sender: Address) -> LimitsShown:
        """
        Raises:
            BadRequest: that is no name of a tenant.
            Unavailable: PostgreSQL is away.
        """
        bounded("tenant", msg.tenant_id)
        bounded("tenant", msg.after)
        rows, more = await tenant_limits.page(self._database, msg.tenant_id, msg.after)
        return LimitsShown(limits=tuple(map(_own, rows)), more=more)


def _own(row: TenantLimitRow) -> OwnLimits:
    return OwnLimits(**msgspec.structs.asdict(row))
