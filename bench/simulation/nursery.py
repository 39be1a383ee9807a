"""A supervisor over simulated processes: the real tree decides, exits are told late and twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bench.simulation.laws import INTENSITY, PERIOD_S
from bench.simulation.process import Process
from bench.simulation.world import World
from supervision.actions import Action, Emit, EndTree, Kill, Spawn, Start, Stop
from supervision.errors import TetherError
from supervision.events import ChildRestarting, TreeChanged
from supervision.spec import ChildSpec
from supervision.strategy import Strategy
from supervision.tree import SupervisionTree

AGAIN_S = 0.5  # until the root starts a supervisor again that gave up


class Nursery:
    """One supervisor. `make(process)` puts the actor into a new process."""

    def __init__(
        self,
        world: World,
        path: str,
        specs: tuple[ChildSpec, ...],
        hosts: dict[str, str],
        make: Callable[[Process], None],
        *,
        together: bool,
    ) -> None:
        self.world, self.path = world, path
        self._specs, self._hosts, self._make = specs, hosts, make
        self._together = together
        self.life = 0
        self.begin()

    def begin(self) -> None:
        """A new supervisor, with all of its children."""
        self.life += 1
        self.living: dict[str, Process] = {}
        self._restarts: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self.tree = SupervisionTree(
            self.path,
            self._specs,
            strategy=Strategy.ONE_FOR_ONE if self._together else Strategy.REST_FOR_ONE,
            intensity=INTENSITY,
            period_s=PERIOD_S,
            draw=self.world.dice.random,
            together=self._together,
            eager=True,
        )
        self._do(self.tree.begin(self.world.now))

    def _do(self, actions: list[Action]) -> None:
        world = self.world
        for action in actions:
            match action:
                case Spawn(spec, generation):
                    self._spawn(spec, generation)
                case Start(id, generation, needs):
                    process = self.living[id]
                    if process.alive:
                        process.actor.needs = {
                            need: world.processes[text].address for need, text in needs if text
                        }
                        process.task(self._start(process, id, generation))
                case Stop(id, generation, deadline_s, _):
                    process = self.living[id]
                    if process.alive:
                        process.task(process.leave(deadline_s))
                case Kill(id, generation):
                    self.living[id].kill()
                case EndTree():
                    world.trace.add("finish", self.path)
                    world.loop.call_later(AGAIN_S, self.begin)
                case Emit(ChildRestarting()):
                    self._restarts.append(world.now)
                    world.laws.intensity(self.path, self._restarts)
                case Emit(TreeChanged()):
                    world.tree_changed()
                case _:
                    pass
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.tree.wakeup(world.now)
        if due is not None:
            self._timer = world.loop.call_at(due, self._tick, self.life)

    def _tick(self, life: int) -> None:
        if life == self.life:
            self._do(self.tree.tick(self.world.now))

    def _spawn(self, spec: ChildSpec, generation: int) -> None:
        world = self.world
        before = self.living.get(spec.id)
        world.laws.one_generation(f"{self.path}/{spec.id}", before)
        kind = self._hosts[spec.id]
        host = spec.id if kind == "worker" else "control"
        process = Process(world, f"{self.path}/{spec.id}", generation, kind, host)
        self.living[spec.id] = process
        world.trace.add("spawn", process.name, generation)
        process.on_death = lambda: self._gone(process, spec.id, generation)
        self._make(process)
        world.loop.call_later(
            world.dice.uniform(0.02, 0.08), self._up, process, spec.id, generation, self.life
        )

    def _up(self, process: Process, id: str, generation: int, life: int) -> None:
        if process.alive and life == self.life:
            self._do(
                self.tree.spawned(id, generation, process.pid, str(process.address), self.world.now)
            )

    async def _start(self, process: Process, id: str, generation: int) -> None:
        world, life = self.world, self.life
        error = "it can't" if world.unlucky(0.02) else ""
        if not error:
            try:
                await asyncio.wait_for(process.actor.begin(), 5.0)
            except (TetherError, TimeoutError) as problem:
                error = str(problem) or "timed out"
        if life != self.life or not process.alive:
            return
        if error:
            world.loop.call_later(0.01, process.kill)
            self._do(self.tree.start_failed(id, generation, error, world.now))
        else:
            self._do(self.tree.ready(id, generation, process.pid, str(process.address), world.now))

    def _gone(self, process: Process, id: str, generation: int) -> None:
        world = self.world
        world.loop.call_later(
            world.dice.uniform(0, 0.02), self._exited, id, generation, self.life, False
        )

    def _exited(self, id: str, generation: int, life: int, again: bool) -> None:
        world = self.world
        if life != self.life:
            return
        actions = self.tree.exited(id, generation, world.now)
        if again:
            world.laws.nothing_again(f"{self.path}/{id}", generation, actions)
        elif world.unlucky(0.5):
            world.loop.call_later(
                world.dice.choice((0.001, 0.05, 0.5, 2.0)), self._exited, id, generation, life, True
            )
        self._do(actions)
