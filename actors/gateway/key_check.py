"""The check of a key alone, for front doors, which ask before they take in anything else."""

from __future__ import annotations

from actors.contracts import Authenticate, Authenticated
from actors.core.node_roles import Role
from actors.gateway.keyring import Keyring
from supervision.child import Supervised
from supervision.runtime import Address, on


class KeyCheck:
    """The part of a gateway that answers `Authenticate`."""

    def __init__(self, actor: Supervised, keyring: Keyring) -> None:
        self._actor = actor
        self._keyring = keyring

    @on(Authenticate, of=Role.DOOR)
    async def authenticate(self, msg: Authenticate, sender: Address) -> Authenticated:
        """
        Raises:
            Unauthenticated: there is no such key, or it was revoked.
            Overloaded, Unavailable: it can't be looked up now.
        """
        caller = await self._keyring.caller(msg.credential, self._actor.loop)
        return Authenticated(
            tenant_id=caller.tenant_id, key_id=caller.key_id, operator=caller.operator
        )
