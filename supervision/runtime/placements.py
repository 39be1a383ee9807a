"""The actors that other nodes have placed at this one: each ends when its owners there are gone.

An actor that is placed at another node has the Admin there as its parent, for Thespian, and would
stay for as long as that runs. So each has a guardian at the node that asked for it. It ends by
itself when it loses an actor that is its parent; should it not, or was it never told of it, it is
killed here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from supervision.contracts import FindActor
from supervision.errors import BadRequest, Forbidden, TetherError
from supervision.runtime.address import ADMIN, Address
from supervision.runtime.connections import Connections
from supervision.runtime.options import NodeOptions
from supervision.security.audience import Audience
from supervision.telemetry.bounded_log import BoundedLog

ORPHAN_S: Final = 5.0  # for an actor to end that has lost its guardian
PROBE_S: Final = 5.0  # for an Admin to say that it is still there

heard = BoundedLog(__name__)


def guardian_of(request: Any) -> Address | None:
    """With whose end shall the actor end that the `PendingActor` asks for, beside this node's?

    An actor ends with the one that asked for it. Who asks from outside, by `Endpoint.create` or
    `ActorSystem.createActor`, may be gone with the answer: there the Admin that it asked is the
    parent (`asked_at`). What has a global name belongs to all who know it, and ends with nobody.
    """
    if request.globalName or request.forActor is None:
        return None
    asker: Address = request.forActor.addressDetails
    admin = getattr(getattr(request, "asked_at", None), "addressDetails", None)
    if isinstance(admin, Address) and (admin.name, admin.node) == (ADMIN, asker.node):
        return admin
    return asker


class Placements:
    """Beside an Admin, on its loop. `parents` is Thespian's list of the actors that the Admin has
    started for others, and for whom, as `thespian.actors.ActorAddress` both."""

    def __init__(self, hub: Connections, parents: Any) -> None:
        self._hub = hub
        self._parents = parents
        self._nursed: dict[Address, Callable[[], None]] = {}
        self._orphans: set[asyncio.Task[None]] = set()  # one a child at most

    def nurse(self, child: Address, guardian: Address) -> None:
        """`child` was placed here for `guardian`: it shall not outlive it for long."""
        hub = self._hub
        if guardian.node == hub.address.node or hub.closed:
            return
        peer = hub.peer(guardian)

        def lost() -> None:
            self._nursed.pop(child, None)
            if hub.closed:
                return  # we are the ones who go
            orphan = hub.loop.create_task(
                self._orphaned(child, guardian, peer.incarnation), name="orphan"
            )
            self._orphans.add(orphan)  # a loop holds its tasks weakly
            orphan.add_done_callback(self._orphans.discard)

        self._nursed[child] = hub.watch(guardian, lost)

    def ended(self, child: Address) -> None:
        """Its process is gone. Safe to call for any."""
        unwatch = self._nursed.pop(child, None)
        if unwatch is not None:
            unwatch()

    def refusal(self, sender: Address, options: NodeOptions) -> str:
        """Why the Admin at `sender` may not have actors started here; empty if it may, as that of
        the own node always."""
        hub, roles = self._hub, options.placing_roles
        if sender.node == hub.address.node:
            return ""
        peer = hub.known(sender)
        shown = Audience(peer.audience).roles if peer is not None else ()
        if roles and not set(roles).intersection(shown):
            return f"node {sender.node} has not the role {' or '.join(roles)}"
        return ""

    def end(self, pid: int, sender: Address) -> None:
        """Kill the actor with this process, which was placed here by `sender`'s node.

        Raises:
            BadRequest: no actor of this process was placed here.
            Forbidden: it was placed by another node.
        """
        for child, parent in self._parents.items():
            if child.addressDetails.pid == pid:
                if parent.addressDetails.node != sender.node:
                    raise Forbidden(f"process {pid} was not placed here by node {sender.node}")
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return
        raise BadRequest(f"no actor with process {pid} was placed here by another node")

    async def _orphaned(self, child: Address, guardian: Address, incarnation: int) -> None:
        await asyncio.sleep(ORPHAN_S)
        # With an Admin, a connection is lost more often than the process; and nobody has told the
        # child to end.
        back = guardian.name == ADMIN and await self._is_back(guardian, incarnation)
        if not any(c.addressDetails == child for c, _ in self._parents.items()):
            return
        if back:
            self.nurse(child, guardian)
            return
        heard.warning(
            "killed what another node had placed here, and lost", guardian.node, pid=child.pid
        )
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    async def _is_back(self, admin: Address, incarnation: int) -> bool:
        """Does the process answer that was there before, and not a successor?"""
        try:
            await self._hub.ask(admin, FindActor(name=""), PROBE_S)
            return self._hub.peer(admin).incarnation == incarnation
        except TetherError:
            return False
