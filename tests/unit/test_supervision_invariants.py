"""The eight invariants of docs/supervision.md, against random histories and a fake clock.

The machine plays the shell and the operating system: it carries out every action on a table
of fake processes, and delivers what they do late, twice and in any order.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from enum import Enum

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from supervision.actions import Action, Emit, EndTree, Kill, Serve, Spawn, Start, Stop
from supervision.backoff import Backoff
from supervision.child_transitions import TreeState
from supervision.contracts import ChildStatus, ExitReason
from supervision.errors import Conflict, Overloaded
from supervision.events import ChildRestarting
from supervision.external_cause import ExternalCause
from supervision.spec import ChildSpec, Restart
from supervision.strategy import Strategy
from supervision.tree import SupervisionTree
from tests.support.properties import examples

MAX_CHILDREN = 5


class Stage(Enum):
    """How far a fake process is."""

    SPAWNED = "spawned"  # waits for its turn
    STARTING = "starting"  # was told to start
    READY = "ready"  # serves
    FAILING = "failing"  # has said that it ends


@dataclass
class Process:
    """One generation of a child, as the operating system sees it."""

    id: str
    generation: int
    state: Stage = Stage.SPAWNED
    told_to_stop_at: float | None = None
    stop_by: float = math.inf
    ready_by: float = math.inf
    killed: bool = False
    hangs: bool = False

    @property
    def asked(self) -> bool:
        """It was told to stop."""
        return self.told_to_stop_at is not None


def remembered(value: object, seen: dict[int, int]) -> object:
    """`value` with its parts as plain values; what was seen before as the number of its turn."""
    if isinstance(value, dict):
        return {key: remembered(one, seen) for key, one in value.items()}
    if not hasattr(value, "__dict__") or not type(value).__module__.startswith("supervision."):
        return copy.deepcopy(value)
    if isinstance(value, Enum):
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = len(seen)
    return {name: remembered(one, seen) for name, one in vars(value).items() if name != "_draw"}


class Machine(RuleBasedStateMachine):
    """A supervisor among processes that do as they please."""

    @initialize(
        strategy=st.sampled_from(Strategy),
        together=st.booleans(),
        eager=st.booleans(),
        intensity=st.integers(0, 4),
        restarts=st.lists(st.sampled_from(Restart), min_size=0, max_size=4),
        data=st.data(),
    )
    def build(
        self,
        strategy: Strategy,
        together: bool,
        eager: bool,
        intensity: int,
        restarts: list[Restart],
        data: st.DataObject,
    ) -> None:
        if together:
            strategy = Strategy.ONE_FOR_ONE
        self.now = 100.0
        self.strategy, self.together, self.intensity = strategy, together, intensity
        self.period_s = 5.0
        self.processes: dict[str, Process] = {}
        self.ids = [f"c{i}" for i in range(len(restarts))]
        self.specs = {
            id: ChildSpec(
                id=id,
                start="m:C",
                restart=restart,
                shutdown=data.draw(st.sampled_from([0.0, 1.0, 3.0])),
                start_timeout_s=4.0,
                backoff=Backoff(initial_s=0.5, max_s=2.0, steady_s=3.0),
            )
            for id, restart in zip(self.ids, restarts, strict=True)
        }
        self.order = list(self.ids)
        self.ever_ready: set[str] = set()
        self.spawned_once: set[str] = set()
        self.terminated: set[str] = set()
        self.exits: list[tuple[str, int]] = []
        self.restart_times: list[float] = []
        self.finished: EndTree | None = None
        self.served = 0
        self.tree = SupervisionTree(
            "top",
            list(self.specs.values()),
            strategy=strategy,
            intensity=intensity,
            period_s=self.period_s,
            draw=lambda: 0.5,
            together=together,
            eager=eager or together,
            max_children=MAX_CHILDREN,
        )
        self.carry_out(self.tree.begin(self.now))

    # ---- the shell

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.finished is None, "an action after the finish"
            match action:
                case Spawn(spec, generation):
                    self.on_spawn(spec, generation)
                case Start(id, generation, _):
                    self.on_start(id, generation)
                case Stop(id, generation, _, _) | Kill(id, generation):
                    self.on_stop(id, generation, kill=isinstance(action, Kill))
                case EndTree():
                    assert not self.processes, "finished, and left processes behind"
                    self.finished = action
                case Serve():
                    self.served += 1
                    assert self.served == 1
                case Emit(ChildRestarting(excuse=excuse)):
                    if excuse:
                        continue  # it counts towards no intensity
                    self.restart_times.append(self.now)
                    recent = [t for t in self.restart_times if self.now - t <= self.period_s]
                    assert len(recent) <= self.intensity, "more restarts than the intensity"
                case Emit():
                    pass

    def on_spawn(self, spec: ChildSpec, generation: int) -> None:
        assert spec.id not in self.processes, f"two live generations of {spec.id}"
        assert spec.id not in self.terminated, "a terminated child came back by itself"
        if spec.restart is Restart.TEMPORARY:
            assert spec.id not in self.spawned_once, f"temporary {spec.id} was restarted"
        self.spawned_once.add(spec.id)
        self.processes[spec.id] = Process(spec.id, generation)

    def on_start(self, id: str, generation: int) -> None:
        process = self.processes[id]
        assert process.generation == generation
        assert process.state is Stage.SPAWNED, "started twice"
        if not self.together:
            free = self.strategy is Strategy.ONE_FOR_ONE and id in self.ever_ready
            if self.strategy is not Strategy.ONE_FOR_ONE:
                nodes = self.tree.children.which(self.now)
                stopping = {n.path for n in nodes if n.state is ChildStatus.STOPPING}
                stopping -= {f"top/{gone}" for gone in self.terminated}
                # who is about to end by itself has not been told to
                stopping -= {f"top/{p.id}" for p in self.processes.values() if not p.asked}
                assert not stopping, f"{id} started while {stopping} had to stop"
            earlier = self.order[: self.order.index(id)]
            for other in earlier if not free else ():
                sibling = self.processes.get(other)
                down = sibling is None and self.shown(other) in (ChildStatus.STOPPED, None)
                assert down or (sibling and sibling.state is Stage.READY), f"{id} before {other}"
        process.state = Stage.STARTING
        process.ready_by = self.now + self.specs[id].start_timeout_s

    def on_stop(self, id: str, generation: int, *, kill: bool) -> None:
        process = self.processes.get(id)
        assert process is not None and process.generation == generation, "stopped a ghost"
        first = process.told_to_stop_at is None
        if first and self.tree.state is TreeState.STOPPING and not self.together:
            later = self.order[self.order.index(id) + 1 :]
            running = [
                o
                for o in later
                if o in self.processes and self.processes[o].state is not Stage.SPAWNED
            ]
            late = kill and process.state is Stage.STARTING and self.now >= process.ready_by
            if process.state in (Stage.STARTING, Stage.READY) and not process.hangs and not late:
                assert not running, f"{id} stopped before {running}"
        if first:
            process.told_to_stop_at = self.now
            process.stop_by = self.now + self.specs[id].stop_s
        process.killed = process.killed or kill

    def state(self) -> object:
        """All that the tree remembers, its parts included, to be compared."""
        return remembered(self.tree, {})

    def shown(self, id: str) -> ChildStatus | None:
        nodes = self.tree.children.which(self.now)
        return next((n.state for n in nodes if n.path == f"top/{id}"), None)

    def one(self, data: st.DataObject, *states: Stage) -> Process | None:
        found = [p for p in self.processes.values() if not states or p.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    def bury(self, process: Process, error: str = "") -> None:
        del self.processes[process.id]
        self.exits.append((process.id, process.generation))
        self.carry_out(self.tree.exited(process.id, process.generation, self.now, error))

    # ---- what processes, clocks and people do

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        process = self.one(data, Stage.STARTING)
        if process and not process.killed:
            process.state = Stage.READY
            if process.told_to_stop_at is None:
                self.ever_ready.add(process.id)
            actions = self.tree.ready(process.id, process.generation, 7, "n/x/0", self.now)
            self.carry_out(actions)
            again = self.tree.ready(process.id, process.generation, 7, "n/x/0", self.now)
            assert again == []

    @precondition(lambda self: self.processes)
    @rule()
    def all_become_ready(self) -> None:
        while found := [
            p
            for p in self.processes.values()
            if p.state is Stage.STARTING and p.told_to_stop_at is None
        ]:
            found[0].state = Stage.READY
            self.ever_ready.add(found[0].id)
            id, generation = found[0].id, found[0].generation
            self.carry_out(self.tree.ready(id, generation, 7, "n/x/0", self.now))

    @precondition(lambda self: self.processes)
    @rule()
    def all_obey(self) -> None:
        while found := [p for p in self.processes.values() if p.told_to_stop_at is not None]:
            self.bury(found[0])

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), excuse=st.sampled_from([None, *ExternalCause]))
    def cannot_start(self, data: st.DataObject, excuse: ExternalCause | None) -> None:
        process = self.one(data, Stage.STARTING)
        if process and not process.killed:
            process.state = Stage.FAILING
            self.carry_out(
                self.tree.start_failed(
                    process.id, process.generation, "oh", self.now, excuse=excuse
                )
            )

    @precondition(lambda self: self.processes)
    @rule(
        data=st.data(),
        reason=st.sampled_from([None, ExitReason.NORMAL, ExitReason.FAILED]),
        lingers=st.booleans(),
    )
    def dies(self, data: st.DataObject, reason: ExitReason | None, lingers: bool) -> None:
        process = self.one(data)
        assert process is not None
        if reason:
            self.carry_out(
                self.tree.noticed(process.id, process.generation, reason, "so it said", self.now)
            )
            if lingers and process.state is Stage.READY:
                process.state = Stage.FAILING
                return
        self.bury(process)

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def hangs(self, data: st.DataObject) -> None:
        process = self.one(data)
        assert process is not None
        # it is as good as dead, so whoever comes after it needn't have stopped before it
        process.hangs = process.state is Stage.READY
        self.carry_out(self.tree.doomed(process.id, process.generation, "hung", self.now))
        assert process.killed or not process.hangs or process.told_to_stop_at is not None

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def obeys(self, data: st.DataObject) -> None:
        asked = [p for p in self.processes.values() if p.told_to_stop_at is not None]
        if asked:
            self.bury(data.draw(st.sampled_from(asked)))

    @precondition(lambda self: self.exits)
    @rule(data=st.data())
    def an_exit_is_told_twice(self, data: st.DataObject) -> None:
        id, generation = data.draw(st.sampled_from(self.exits))
        before = self.state()
        assert self.tree.exited(id, generation, self.now) == []
        assert self.tree.start_failed(id, generation, "late", self.now) == []
        assert self.tree.ready(id, generation, 7, "n/x/0", self.now) == []
        assert self.tree.noticed(id, generation, ExitReason.FAILED, "late", self.now) == []
        assert self.tree.doomed(id, generation, "late", self.now) == []
        assert before == self.state()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 2.5, 6.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(200):
            due = self.tree.wakeup(self.now)
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.carry_out(self.tree.tick(self.now))
        else:
            raise AssertionError("the timer never rests")
        self.now = until
        self.carry_out(self.tree.tick(self.now))

    @rule(restart=st.sampled_from(Restart), number=st.integers(0, 6))
    def add(self, restart: Restart, number: int) -> None:
        spec = ChildSpec(id=f"d{number}", start="m:C", restart=restart, shutdown=1.0)
        taken = spec.id in {n.path.removeprefix("top/") for n in self.tree.children.which(self.now)}
        full = self.tree.children.count()["specs"] >= MAX_CHILDREN
        try:
            self.specs.setdefault(spec.id, spec)
            before = dict(self.specs)
            self.specs[spec.id] = spec if not taken else self.specs[spec.id]
            if not taken:
                self.spawned_once.discard(spec.id)
                self.terminated.discard(spec.id)
                self.ever_ready.discard(spec.id)
                order = [o for o in self.order if o != spec.id]
                self.order = [*order, spec.id]
            actions = self.tree.add(spec, self.now)
        except (Conflict, Overloaded):
            assert taken or full or self.tree.state in (TreeState.STOPPING, TreeState.STOPPED)
            self.specs = before
            return
        assert not taken and not full
        self.carry_out(actions)

    @rule(data=st.data(), forget=st.booleans())
    def terminate(self, data: st.DataObject, forget: bool) -> None:
        nodes = self.tree.children.which(self.now)
        if nodes and self.tree.state.takes_orders:
            id = data.draw(st.sampled_from(nodes)).path.removeprefix("top/")
            self.terminated.add(id)
            self.carry_out(self.tree.terminate(id, self.now, forget=forget))

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        down = [n for n in self.tree.children.which(self.now) if n.state is ChildStatus.STOPPED]
        if down and self.tree.state.takes_orders:
            id = data.draw(st.sampled_from(down)).path.removeprefix("top/")
            self.terminated.discard(id)
            self.spawned_once.discard(id)  # asked for by a person
            self.carry_out(self.tree.restart(id, self.now))

    @rule()
    def stop(self) -> None:
        self.carry_out(self.tree.stop(self.now))

    # ---- what always holds

    @invariant()
    def count_is_which(self) -> None:
        nodes = self.tree.children.which(self.now)
        count = self.tree.children.count()
        assert count["specs"] == len(nodes) == count["workers"] + count["supervisors"]
        assert count["active"] == len(self.processes)
        assert {
            n.path for n in nodes if n.state in (ChildStatus.RUNNING, ChildStatus.STOPPING)
        } <= {f"top/{id}" for id in self.processes}

    @invariant()
    def nobody_outlives_a_deadline_unkilled(self) -> None:
        for process in self.processes.values():
            if process.told_to_stop_at is not None and process.state is not Stage.FAILING:
                assert process.killed or self.now < process.stop_by + 1e-9
            if process.state is Stage.STARTING and process.told_to_stop_at is None:
                assert self.now < process.ready_by + 1e-9

    @invariant()
    def a_gone_supervisor_has_no_child(self) -> None:
        assert (self.tree.state is TreeState.STOPPED) == (self.finished is not None)

    def teardown(self) -> None:
        """Whatever came before: told to stop, it stops, though nobody obeys but the killed."""
        if not hasattr(self, "tree"):
            return
        self.carry_out(self.tree.stop(self.now))
        for _ in range(200):
            if self.finished:
                break
            for process in [p for p in self.processes.values() if p.killed]:
                self.bury(process)
            if self.finished:
                break
            due = self.tree.wakeup(self.now)
            if due is not None:
                self.now = max(self.now, due)
                self.carry_out(self.tree.tick(self.now))
        assert self.finished is not None, "a stopped supervisor never finished"


Machine.TestCase.settings = settings(
    max_examples=examples(80),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestInvariants = Machine.TestCase
