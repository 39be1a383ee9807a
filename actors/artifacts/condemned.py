"""The record of what garbage collection found unused at a replica, and since when.

An object is removed only by a collection that runs `grace` after one that condemned it, and only
if nothing names it then. A push reads this list when it begins, and sends again what stands in
it; what is condemned later stays for at least the grace, within which a push has to end. So
neither needs to know whether the other runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from actors.artifacts import layout
from actors.artifacts.replica import FaultKind, Replica, ReplicaFault
from supervision.unreadable import UNREADABLE

_MOST: Final = 256 << 20


class Condemned(msgspec.Struct, frozen=True):
    """`since` by path, and `modified`: the store's own time of the object then. What was written
    again after that is another object."""

    since: dict[str, datetime]
    modified: dict[str, datetime]


async def condemned(replica: Replica) -> Condemned:
    """
    Raises:
        ReplicaFault: it can't be reached. A list that can't be read is taken for an empty one:
            that only makes the next collection wait for longer.
    """
    try:
        content = await replica.get(layout.CONDEMNED, most=_MOST)
        return msgspec.json.decode(content, type=Condemned)
    except ReplicaFault as fault:
        if fault.fault is FaultKind.UNREACHABLE:
            raise
    except UNREADABLE:
        pass
    return Condemned({}, {})


async def write(replica: Replica, listed: Condemned) -> None:
    """
    Raises:
        ReplicaFault: it can't be written.
    """
    await replica.put(layout.CONDEMNED, msgspec.json.encode(listed), overwrite=True)
