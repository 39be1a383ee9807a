"""The part of a gateway that says which models there are."""

from __future__ import annotations

from collections.abc import Callable

from actors.contracts import Catalog, ListModels, Readiness, Ready
from actors.core.node_roles import Role
from actors.gateway.fleet_view import FleetView
from actors.gateway.keyring import Keyring
from supervision.child import Supervised
from supervision.runtime import Address, on


class CatalogAnswers:
    """
    Args:
        draining: is the gateway on its way out?
    """

    def __init__(
        self, actor: Supervised, keyring: Keyring, fleet: FleetView, draining: Callable[[], bool]
    ) -> None:
        self._loop = actor.loop
        self._keyring = keyring
        self._fleet = fleet
        self._draining = draining

    @on(ListModels, of=Role.DOOR)
    async def models(self, msg: ListModels, sender: Address) -> Catalog:
        """The models that the tenant of this key may use.

        Raises:
            Unauthenticated: no such key.
        """
        caller = await self._keyring.caller(msg.credential, self._loop)
        return self._fleet.index.of_tenant(caller.tenant_id)

    @on(Readiness, of=Role.DOOR)
    def readiness(self, msg: Readiness, sender: Address) -> Ready:
        """Which models of the catalog some living worker has answered for."""
        return Ready(models=() if self._draining() else self._fleet.ready)
