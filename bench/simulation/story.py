"""A life from a seed: a node, its clients, and what befalls them."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

from actors.gateway import gateway, request_messages
from actors.reservation import settler
from actors.scheduler import scheduler
from actors.worker import loader, runs, worker
from bench.simulation.bugs import BUGS, Patch
from bench.simulation.cast import ACTORS, Around, Counted, Keys, engines, placement
from bench.simulation.client import GATEWAYS, Door
from bench.simulation.clock import Stalled
from bench.simulation.laws import Broken
from bench.simulation.nursery import Nursery
from bench.simulation.process import Process
from bench.simulation.world import World
from supervision.policies import Mode
from supervision.spec import ChildSpec

CALM_AT = 4.5  # no misfortune after that
END_AT = 12.5  # by then all deadlines and leases are over
WORKERS = 3
OUTAGE_S = 1.0  # of the database, at most; leases outlast it
HANG_S = 1.5  # of reservation, at most: longer than it is waited for, and than some deadlines


@dataclass(slots=True)
class Report:
    """What came of a seed. `fault` is empty where every law held."""

    seed: int
    fault: str
    digest: str
    events: int
    outcomes: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    lines: list[str] = field(default_factory=list)


class Story:
    """What happens in `world`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._doors: list[Door] = []

    def build(self) -> None:
        """A node, two doors, requests, and misfortune."""
        control = (
            ChildSpec(id="roster", start="m:C", shutdown=0.5),
            ChildSpec(id="reservation", start="m:C", shutdown=0.5),
            ChildSpec(id="scheduler", start="m:C", shutdown=0.5, needs=("roster", "reservation")),
            *(ChildSpec(id=f"gateway{n}", start="m:C", shutdown=0.5) for n in range(GATEWAYS)),
        )
        kinds = {spec.id: spec.id.rstrip("01") for spec in control}
        workers = tuple(ChildSpec(id=f"w{n}", start="m:C", shutdown=2.0) for n in range(WORKERS))
        self._world.nurseries["control"] = Nursery(
            self._world, "control", control, kinds, _embody, together=False
        )
        self._world.nurseries["workers"] = Nursery(
            self._world,
            "workers",
            workers,
            {s.id: "worker" for s in workers},
            _embody,
            together=True,
        )
        self._doors = [self._door(0), self._door(1)]
        dice, loop = self._world.dice, self._world.loop
        for number in range(dice.randint(4, 14)):
            loop.call_at(dice.uniform(0.3, CALM_AT), self._request, number)
        for _ in range(dice.choice((0, 1, 1, 2, 3, 6))):
            loop.call_at(dice.uniform(0.4, CALM_AT), self._kill)
        for _ in range(dice.choice((0, 0, 0, 1, 2))):
            loop.call_at(dice.uniform(0.4, CALM_AT - 1.0), self._part)
        for _ in range(dice.choice((0, 0, 1, 2))):
            loop.call_at(dice.uniform(0.5, CALM_AT), self._operate)
        for _ in range(dice.choice((0, 0, 0, 1))):
            loop.call_at(dice.uniform(0.4, CALM_AT - OUTAGE_S), self._outage)
        hangs = self._world.hangs
        for _ in range(hangs.choice((0, 0, 0, 1, 2))):
            loop.call_at(hangs.uniform(0.4, CALM_AT - HANG_S), self._hang)
        loop.call_at(CALM_AT, self._calm)

    def _door(self, number: int) -> Door:
        return Door(Process(self._world, f"door{number}", 1, "door", "door"))

    def _request(self, number: int) -> None:
        door = self._doors[number % 2]
        door.process.task(door.request(number, self._world.dice))

    def _outage(self) -> None:
        self._world.outage = True
        self._world.trace.add("outage")
        self._world.loop.call_later(self._world.dice.uniform(0.05, OUTAGE_S), self._back)

    def _back(self) -> None:
        self._world.outage, self._world.back_at = False, self._world.now
        self._world.trace.add("back")

    def _hang(self) -> None:
        """Reservation doesn't answer, and says nothing: not even that it can't."""
        self._world.hung = True
        self._world.trace.add("hangs")
        self._world.loop.call_later(self._world.hangs.uniform(0.3, HANG_S), self._wake)

    def _wake(self) -> None:
        self._world.hung, self._world.back_at = False, self._world.now
        self._world.trace.add("wakes")

    def _operate(self) -> None:
        worker, mode = (
            f"w{self._world.dice.randrange(WORKERS)}",
            self._world.dice.choice(tuple(Mode)),
        )
        door = self._doors[0]
        door.process.task(door.operate(worker, mode))

    def _kill(self) -> None:
        victims = [
            process
            for nursery in self._world.nurseries.values()
            for process in nursery.living.values()
            if process.alive
        ]
        victims += [door.process for door in self._doors]
        victim = self._world.dice.choice(victims)
        self._world.kills += 1
        victim.kill()
        for number, door in enumerate(self._doors):
            if door.process is victim:
                self._doors[number] = self._door(number)

    def _part(self) -> None:
        one, other = self._world.dice.sample(["control", "door", "w0", "w1", "w2"], 2)
        self._world.network.part(one, other, self._world.dice.uniform(0.1, 1.0))

    def _calm(self) -> None:
        self._world.calm = True
        self._world.network.calm()


def _embody(process: Process) -> None:
    ACTORS[process.kind](process)


@contextmanager
def _patched(patches: list[Patch]) -> Iterator[None]:
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in patches]
    dice = random.getstate()
    collects = gc.isenabled()
    gc.disable()  # forgetting a stream closes it, so when that happens must not be chance
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        random.setstate(dice)
        if collects:
            gc.enable()


def run(seed: int, bug: str = "", *, whole: bool = False) -> Report:
    """Live through the world of `seed`, with a bug planted if one is named.

    Raises:
        KeyError: there is no such bug.
    """
    world = World(seed, whole=whole)
    ids = iter(range(1, 1 << 30))
    patches: list[Patch] = [
        (request_messages, "job_id", lambda: f"00000000-0000-7000-8000-{next(ids):012d}"),
        (runs, "ModelRun", Counted),
        (scheduler, "Placement", placement(world.dice)),
        (worker, "TICK_S", 0.25),
        (worker, "time", SimpleNamespace(time_ns=lambda: round(world.now * 1e9))),
        (loader, "load", engines(world)),
        (worker, "memory_bytes", lambda: 0),
        (scheduler, "TICK_S", 0.2),
        (gateway, "TICK_S", 0.25),
        (gateway, "START_S", 4.0),
        (gateway, "Keyring", Keys),
        (gateway, "FleetView", Around),
        (settler, "PATIENCE_S", 0.5),  # a lease outlasts it, as it does in earnest
        *(BUGS[bug]() if bug else ()),
    ]
    Counted.made = 0
    with _patched(patches):
        random.seed(seed)
        fault = _live(world)
    return Report(
        seed=seed,
        fault=fault,
        digest=world.trace.digest,
        events=world.trace.events,
        outcomes=world.outcomes,
        kills=world.kills,
        lines=list(world.trace.lines),
    )


def _live(world: World) -> str:
    loop = world.loop
    loop.set_exception_handler(lambda _, context: world.laws.broken(str(context)))
    try:
        Story(world).build()
        loop.run_until(END_AT)
        world.laws.settled()
    except Broken as broken:
        return str(broken)
    except Stalled as stalled:
        return str(stalled)
    finally:
        _bury(world)
    return ""


def _bury(world: World) -> None:
    """End all that still runs, unseen."""
    loop = world.loop
    world.laws.check = lambda: None  # type: ignore[method-assign]
    loop._after = lambda: None
    loop.set_exception_handler(lambda *_: None)
    for process in world.processes.values():
        process.alive = False
    for _ in range(3):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop._ready.clear()  # type: ignore[attr-defined]
    loop._scheduled.clear()  # type: ignore[attr-defined]
    loop.close()
