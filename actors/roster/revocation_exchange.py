"""Revocation lists between nodes: taken over from others, sent to who has an older one.

The authority has signed them, so it doesn't matter who brings them. A list counts in this process
before anything else is done with it; then it is written down, from where the node's other
processes and the next start take it. That is tried until it works, and said loudly meanwhile.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Final

from actors.contracts import Revocations
from actors.roster import metrics
from supervision.child import Supervised
from supervision.errors import TetherError
from supervision.runtime import Address
from supervision.security.identity import Identity, IdentityUnusable
from supervision.telemetry import logs
from supervision.telemetry.audit import Audit, Unwritable, Who, home
from supervision.telemetry.bounded_log import BoundedLog
from supervision.telemetry.line_budget import LineBudget

COMMAND: Final = "take over revocations"  # as the audit log calls it
RETRY_S: Final = 1.0  # the first time; twice as long each further time
MOST_S: Final = 60.0
LOG_S: Final = 60.0  # between two lines about lists that one node brings in vain
LOG_LINES: Final = 16

log = logs.get(__name__)
heard = BoundedLog(__name__)


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
        self._keeping = False
        self._lines = LineBudget(LOG_S, LOG_LINES)

    @property
    def number(self) -> int:
        """Of the list that this node has; 0 if none."""
        try:
            return self._identity.current.revocations.number
        except IdentityUnusable:
            return 0

    def adopt(self, msg: Revocations, sender: Address) -> None:
        """A revocation list, from wherever."""
        try:
            adopted = self._identity.adopt(msg.pem)
        except (ValueError, IdentityUnusable) as error:
            unsaid = self._lines.take(sender.node, self._actor.loop.time())
            if unsaid is not None:
                log.warning(
                    "a revocation list can't be taken over",
                    error=str(error), sender=str(sender), unsaid=unsaid,
                )  # fmt: skip
            return
        if adopted:
            log.info("took over a revocation list", number=self.number, sender=str(sender))
            self._say_soon()
            if not self._keeping:
                self._keeping = True
                self._actor.background(self._keep(sender), name="keep revocations")

    async def _keep(self, sender: Address) -> None:
        """Until what counts is written down, which may be newer than what it began with."""
        pause_s, told = RETRY_S, False
        try:
            while True:
                number = self.number
                try:
                    await asyncio.to_thread(self._identity.keep)
                except OSError as error:
                    metrics.revocations_unkept.set(1)
                    log.error(
                        "a revocation list counts here, and can't be written down: other processes "
                        "of this node, and its next start, don't know it; see to data_dir",
                        number=number,
                        error=str(error),
                    )
                    if not told:
                        await self._audit(sender, number, f"not written down: {error}")
                    told = True
                    await asyncio.sleep(pause_s)
                    pause_s = min(MOST_S, 2 * pause_s)
                    continue
                metrics.revocations_unkept.set(0)
                await self._audit(sender, number, "done")
                if number == self.number:
                    return
        finally:
            self._keeping = False

    async def _audit(self, sender: Address, number: int, outcome: str) -> None:
        folder = home()
        if folder is None:
            return
        audit = Audit(folder, Who(certificate=sender.node), self._actor.address.node)
        try:
            await asyncio.to_thread(
                audit.write, uuid.uuid4().hex, COMMAND, (f"list {number}",), outcome
            )
        except Unwritable as error:
            log.error("a revocation isn't in the audit log", number=number, error=str(error))

    async def send(self, node: str) -> None:
        """Ours, to the roster of `node`."""
        address = self._address(node)
        try:
            pem = self._identity.current.revoked.pem
            if address is not None and pem:
                self._actor.tell(address, Revocations(pem=pem))
        except (IdentityUnusable, TetherError) as error:
            heard.warning("a revocation list can't be sent", node, node=node, error=str(error))
