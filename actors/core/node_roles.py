"""The roles of nodes: what runs there, and so what their processes may say to other nodes.

A role stands in the configuration of a node (what it runs) and in its certificate (what others
believe it). Handlers name the roles whose nodes may say a contract: `@on(Settle, of=Role.WORKER)`.

Pure.
"""

from __future__ import annotations

from typing import Final, Literal

from supervision.security import audience
from supervision.security.audience import Audience

DOOR: Final = "door"  # HTTP for clients
CONTROL: Final = "control"  # registry, reservation, scheduler, gateways
WORKER: Final = "worker"  # runs models
RoleName = Literal["door", "control", "worker"]
ROLES: Final[tuple[RoleName, ...]] = (DOOR, CONTROL, WORKER)


class Role:
    """Each as an audience: the processes of all nodes that have it."""

    DOOR: Final[Audience] = audience.role(DOOR)
    CONTROL: Final[Audience] = audience.role(CONTROL)
    WORKER: Final[Audience] = audience.role(WORKER)
