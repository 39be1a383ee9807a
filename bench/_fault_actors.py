"""The actors of a node, and stand-ins of theirs that fail on demand, for `bench/faults.py`.

Each stand-in is the real class with three faults more: a handler that raises, one that takes
memory, and an `__init__` that ends the process while there is a file of its name in the directory
that the environment names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from actors.gateway import Gateway
from actors.postgres import Postgres
from actors.registry import Registry
from actors.reservation.reservation import Reservation
from actors.roster import Roster
from actors.worker import Worker
from bench._lent_scheduler import LentScheduler
from supervision.child import Supervised
from supervision.contracts import Contract
from supervision.dynamic import DynamicSupervisor
from supervision.partition import PartitionSupervisor
from supervision.runtime import Address, on
from supervision.supervisor import Supervisor
from tether.http.server_actor import FrontDoor

FAULTS = "TETHER_BENCH_FAULTS"  # the directory
ONCE, ALWAYS = "once", "always"  # what the file holds


class Raise(Contract, frozen=True):
    """A handler that raises."""


class Grow(Contract, frozen=True):
    """A handler that takes `mib` of memory and keeps them."""

    mib: int


class Grown(Contract, frozen=True):
    """It has taken them."""


class Faulty:
    """The three faults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        order = order_of(type(self).__name__)
        if order.exists():
            if order.read_text() == ONCE:
                order.unlink()
            os._exit(3)

    @on(Raise)
    async def fault_raise(self, msg: Raise, sender: Address) -> None:
        raise ZeroDivisionError("a bug of ours")

    @on(Grow)
    def fault_grow(self, msg: Grow, sender: Address) -> Grown:
        self.fault_held = b"x" * (msg.mib << 20)
        return Grown()


def order_of(name: str) -> Path:
    """The file by which stand-ins of the class `name` are told to end."""
    return Path(os.environ[FAULTS]) / name


class Bystander(Supervised):
    """A child that does nothing."""


class FaultyRegistry(Faulty, Registry): ...


class FaultyRoster(Faulty, Roster): ...


class FaultyReservation(Faulty, Reservation): ...


class FaultyScheduler(Faulty, LentScheduler): ...


class FaultyGateway(Faulty, Gateway): ...


class FaultyWorker(Faulty, Worker): ...


class FaultyDoor(Faulty, FrontDoor): ...


class FaultyPostgres(Faulty, Postgres): ...


class FaultySupervisor(Faulty, Supervisor): ...


class FaultyPartitions(Faulty, PartitionSupervisor): ...


class FaultyDynamic(Faulty, DynamicSupervisor): ...
