"""The order in which orphans stop: after all who started later, for these settle with them.

While the root supervisor lives, who lost its parent stops at once, and its successor does the work.
When the node ends without anybody to stop it in order (its root, its Admin or its owner was
killed), each process goes on serving until the places after its own are left, as a stop in order
would have it, and no longer than `patience_s`.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Final

from supervision.living_processes import LivingProcesses
from supervision.runtime import Address
from supervision.runtime.transport import Transport
from supervision.telemetry import logs
from supervision.tree_position import TreePosition, patience_s

LOOK_S: Final = 0.02  # between two looks at who is left
SURE_S: Final = 0.1  # a root that was killed may still stand for a moment

log = logs.get(__name__)


class OrphanOrder:
    """Takes `place` in the tree of the root at `root` for this process, until that ends.

    Raises:
        OSError: the roll can't be kept.
    """

    def __init__(self, transport: Transport, place: TreePosition, root: Address) -> None:
        self._transport, self._place, self._root = transport, place, root
        options = transport.options
        self._roll = LivingProcesses(options.run_dir, options.node, root.name)
        self._roll.stand(place.offset)

    def give_up(self) -> None:
        """Leave the place at once, as an ended process has."""
        self._roll.leave(self._place.offset)

    async def node_ends(self) -> bool:
        """Is nobody left who would start this process again?"""
        if not self._node_ends:
            await asyncio.sleep(SURE_S)
        return self._node_ends

    @property
    def _node_ends(self) -> bool:
        above, owner = self._transport, self._transport.options.owner_pid
        known = above.admin in above.lost or self._root in above.lost
        return known or not self._roll.has_root or (owner > 0 and has_ended(owner))

    async def comes(self, told: Callable[[], bool]) -> None:
        """Returns when all who started after this process are gone, when `told` says that somebody
        is there to say when to stop, or when it has taken too long."""
        begin = self._place.later
        left = self._roll.standing(begin)
        bound_s = patience_s(len(left))
        self._transport.allow(bound_s)
        try:
            async with asyncio.timeout(bound_s):
                while left and not told():
                    await asyncio.sleep(LOOK_S)
                    left = self._roll.standing(begin)
        except TimeoutError:
            log.warning("stops before others have", pids=sorted(left.values()), waited_s=bound_s)
        finally:
            self._transport.allow(0.0)


def has_ended(pid: int) -> bool:
    """Has this process ended, even if its parent doesn't know yet?"""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        looking = select.poll()  # select knows no descriptor above 1023, and a door has many
        looking.register(descriptor, select.POLLIN)
        return bool(looking.poll(0))
    finally:
        os.close(descriptor)
