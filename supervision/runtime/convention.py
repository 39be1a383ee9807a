"""The convention of an Admin, looked after: who leads, and who is gone.

Thespian keeps a convention by registrations that are repeated every few minutes, and believes in a
member until it has missed three. Two things are added. A member whose Admin can't be reached any
more is let go within seconds, so that nothing is placed there and the next leader takes over. And a
leader that isn't the first of the list registers with those before it, again and again: after a
partition there would be two leaders for ever else.

Source: `thespian.system.admin.convention.LocalConventionState`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from thespian.system.timing import currentTime

from supervision.contracts import ConventionShown, FindActor
from supervision.errors import TetherError
from supervision.runtime.address import Address
from supervision.telemetry.bounded_log import BoundedLog

GRACE_S: Final = 1.0  # from a broken connection to the question whether there is a new one
PROBE_S: Final = 5.0

heard = BoundedLog(__name__)


class Convention:
    """Beside the Admin `admin`, on its loop."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self._transport = admin.transport
        self._state = admin._cstate
        self._attended: set[Address] = set()
        self._probes: set[asyncio.Task[None]] = set()
        self._check = self._state.check_convention
        self._state.check_convention = self._checked

    def shown(self) -> ConventionShown:
        """Who leads, and who else is there."""
        state = self._state
        leads = state.isConventionLeader()  # sets the index that the next line reads
        leader = state.myAddress if leads else state.conventionLeaderAddr
        members = (m.remoteAddress.addressDetails.node for m in state._conventionMembers.values())
        return ConventionShown(
            leader=leader.addressDetails.node if leader is not None else "",
            members=tuple(sorted(members)),
        )

    def registered(self, address: Address) -> None:
        """The Admin at `address` is a member: from now on its end is noticed."""
        if address in self._attended or address == self._transport.address:
            return
        self._attended.add(address)
        heard.info(
            "a node has joined", address.node, member=address.node, convention=self.shown().members
        )
        self._transport.hub.watch(address, lambda: self._silent(address))

    # ---- who is gone

    def _silent(self, address: Address) -> None:
        probe = self._transport.loop.create_task(self._probe(address), name="probe")
        self._probes.add(probe)  # a loop holds its tasks weakly; one a member at most
        probe.add_done_callback(self._probes.discard)

    async def _probe(self, address: Address) -> None:
        await asyncio.sleep(GRACE_S)
        self._attended.discard(address)
        if not any(m == address for m in self._members()):
            return  # it has left by itself
        try:
            await self._transport.hub.ask(address, FindActor(name=""), PROBE_S)
        except TetherError as error:
            if self._transport.closed or self._admin.isShuttingDown():
                return
            heard.warning("a node is gone", address.node, member=address.node, error=error.message)
            self._forget(address)
        else:
            self.registered(address)

    def _members(self) -> list[Address]:
        members = self._state._conventionMembers.values()
        return [m.remoteAddress.addressDetails for m in members]

    def _forget(self, address: Address) -> None:
        for member in list(self._state._conventionMembers.values()):
            if member.remoteAddress.addressDetails == address:
                self._admin._performIO(self._state._remote_system_cleanup(member.remoteAddress))

    # ---- who leads

    def _checked(self) -> list[Any]:
        state = self._state
        due = state._conventionRegistration.view(currentTime()).expired()
        out: list[Any] = self._check()
        if due and state._conventionAddress != [None] and state.isConventionLeader():
            out += state.setup_convention()
        return out
