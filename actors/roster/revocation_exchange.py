"""Revocation lists between nodes: taken over from others, sent to who has an older one.

The authority has signed them, so it doesn't matter who brings them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.contracts import Revocations
from supervision.child import Supervised
from supervision.errors import TetherError
from supervision.runtime import Address
from supervision.security.identity import REVOKED, Identity, IdentityUnusable
from supervision.telemetry import logs

log = logs.get(__name__)


class RevocationExchange:
    """
    Args:
        address: where the roster of a node is, if that is known.
        say_soon: called when this node has a newer list, which others shall hear of.
    """

    def __init__(
        self,
        actor: Supervised,
        identity: Identity,
        address: Callable[[str], Address | None],
        say_soon: Callable[[], object],
    ) -> None:
        self._actor = actor
        self._identity = identity
        self._address = address
        self._say_soon = say_soon

    @property
    def number(self) -> int:
        """Of the list that this node has; 0 if none."""
        try:
            return self._identity.current.revocations.number
        except IdentityUnusable:
            return 0

    def adopt(self, msg: Revocations) -> None:
        """A revocation list, from wherever."""
        try:
            adopted = self._identity.adopt(msg.pem)
        except (ValueError, OSError, IdentityUnusable) as error:
            log.warning("a revocation list can't be taken over", error=str(error))
            return
        if adopted:
            log.info("took over a revocation list", number=self.number)
            self._say_soon()

    async def send(self, node: str) -> None:
        """Ours, to the roster of `node`."""
        address = self._address(node)
        path = self._identity.folder / REVOKED
        try:
            pem = await asyncio.to_thread(path.read_bytes)
            if address is not None:
                self._actor.tell(address, Revocations(pem=pem))
        except (OSError, TetherError) as error:
            log.warning("a revocation list can't be sent", node=node, error=str(error))
