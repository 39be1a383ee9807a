"""Operators over HTTP: whose key it is, the gateway knows; what the models are, the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from actors.runtime import Address, on
from supervision import Supervised
from tether.contracts import Govern, ModelsShown, ShowModels
from tether.errors import Forbidden

if TYPE_CHECKING:
    from actors.gateway.keyring import Keyring

REGISTRY: Final = "control/registry"
FIND_S: Final = 5.0
ASK_S: Final = 20.0  # an artifact's signature may have to be looked at


class Governs(Supervised):
    """The part of a gateway that answers `Govern`."""

    _keyring: Keyring

    @on(Govern)
    async def govern(self, msg: Govern, sender: Address) -> ModelsShown:
        """
        Raises:
            Unauthenticated, Forbidden: no such key, or it is no operator's.
            TetherError: what the registry says.
        """
        caller = await self._keyring.caller(msg.credential, self.loop)
        if not caller.operator:
            raise Forbidden(
                "this key is no operator's; make one with `tether keys create TENANT --operator`"
            )
        request = msg.request
        if not isinstance(request, ShowModels):
            request = msgspec.structs.replace(request, by=caller.name)
        registry = await self.tree.wait(REGISTRY, FIND_S)
        shown: ModelsShown = await self.ask(registry, request, ASK_S)
        return shown
