"""The registry, asked on behalf of operators over HTTP, whose keys the gateway knows."""

from __future__ import annotations

from typing import Final

import msgspec

from actors.contracts import Govern, ModelsShown, ShowModels
from actors.core.node_roles import Role
from actors.gateway.keyring import Keyring
from supervision.child import Supervised
from supervision.errors import Forbidden
from supervision.runtime import Address, on

REGISTRY: Final = "control/registry"
FIND_S: Final = 5.0
ASK_S: Final = 20.0  # an artifact's signature may have to be looked at


class RegistryProxy:
    """The part of a gateway that answers `Govern`."""

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
        actor = self._actor
        caller = await self._keyring.caller(msg.credential, actor.loop)
        if not caller.operator:
            raise Forbidden(
                "this key is no operator's; make one with `tether keys create TENANT --operator`"
            )
        request = msg.request
        if not isinstance(request, ShowModels):
            request = msgspec.structs.replace(request, by=caller.name)
        registry = await actor.tree.wait(REGISTRY, FIND_S)
        shown: ModelsShown = await actor.ask(registry, request, ASK_S)
        return shown
