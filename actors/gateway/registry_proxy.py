"""The registry, asked on behalf of operators over HTTP, whose keys the gateway knows."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from actors.contracts import Govern, ModelsShown, MoveModel, RegisterModel, ShowModels
from actors.contracts.budgets import BudgetsShown, ShowBudgets
from actors.contracts.governing import Administer, AdminRequest
from actors.core.node_roles import Role
from actors.gateway.keyring import Keyring
from supervision.child import Supervised
from supervision.errors import Forbidden
from supervision.runtime import Address, on

REGISTRY: Final = "control/registry"
FIND_S: Final = 5.0
ASK_S: Final = 20.0  # an artifact's signature may have to be looked at
GovernRequest = RegisterModel | MoveModel | ShowModels


class RegistryProxy:
    """The part of a gateway that answers `Govern` and `Administer`."""

    def __init__(self, actor: Supervised, keyring: Keyring) -> None:
        self._actor = actor
        self._keyring = keyring

    @on(Govern, of=Role.DOOR)
    async def govern(self, msg: Govern, sender: Address) -> ModelsShown:
        """
        Raises:
            Unauthenticated, Forbidden: no such key, or it is no operator's.
            TetherError: what the registry says.
        """
        shown: ModelsShown = await self._asked(msg.credential, msg.request)
        return shown

    @on(Administer, of=Role.DOOR)
    async def administer(self, msg: Administer, sender: Address) -> BudgetsShown:
        """
        Raises:
            Unauthenticated, Forbidden: no such key, or it is no operator's.
            TetherError: what the registry says.
        """
        shown: BudgetsShown = await self._asked(msg.credential, msg.request)
        return shown

    async def _asked(self, credential: str, request: GovernRequest | AdminRequest) -> Any:
        actor = self._actor
        caller = await self._keyring.caller(credential, actor.loop)
        if not caller.operator:
            raise Forbidden(
                "this key is no operator's; make one with `tether keys create TENANT --operator`"
            )
        if not isinstance(request, ShowModels | ShowBudgets):
            request = msgspec.structs.replace(request, by=caller.name)
        registry = await actor.tree.wait(REGISTRY, FIND_S)
        return await actor.ask(registry, request, ASK_S)
