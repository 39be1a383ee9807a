"""The processes of a supervisor's children, from the spawn of each to its exit.

What happens to one is told to the tree; what is to be done about it comes from there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from supervision.child import Supervised, sentence
from supervision.child_state import join
from supervision.contracts import ChildReady, ExitReason, StartChild, StopChild
from supervision.errors import TetherError
from supervision.external_cause import ExternalCause
from supervision.lineage import predecessors_gone
from supervision.liveness import attend
from supervision.process import ChildProcess, PlacedProcess
from supervision.runtime import Actor, Address
from supervision.spec import ChildSpec
from supervision.telemetry import disk
from supervision.tree_driver import TreeDriver

_LAST_WORDS_S: Final = 0.05  # after a process has ended, for what it said to be read
_LINGER_S: Final = 2.0  # between a child's connection and its process
_MARGIN_S: Final = 2.0  # beyond a deadline that the tree keeps
_A_YEAR_S: Final = 365 * 86400.0


@dataclass(slots=True, eq=False)
class _Child:
    """One generation of one child, from its spawn to its exit."""

    spec: ChildSpec
    generation: int
    turn: asyncio.Future[dict[str, str]]  # set with its needs when it is to start
    task: asyncio.Task[None] | None = None
    process: ChildProcess | PlacedProcess | None = None
    address: Address | None = None
    attended: asyncio.Task[None] | None = None
    dead: bool = False  # its process has ended
    silent: bool = False  # its connection has ended, so all it said was heard
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class ChildProcesses:
    """The part of a supervisor, `actor`, that holds its children's processes."""

    def __init__(self, actor: Supervised, driver: TreeDriver) -> None:
        self._actor = actor
        self._driver = driver
        self._living: dict[tuple[str, int], _Child] = {}
        self._by_address: dict[Address, _Child] = {}

    def __len__(self) -> int:
        return len(self._living)

    def take_turn(self, id: str, generation: int, needs: dict[str, str]) -> None:
        """It may become ready now; `needs` are addresses by the ids of siblings."""
        child = self._living.get((id, generation))
        if child is not None and not child.turn.done():
            child.turn.set_result(needs)

    def speaks_for(self, id: str, generation: int, sender: Address) -> bool:
        """Is that the address of this child, or was it none of ours that is there? A notice may
        come when its process is gone, and means nothing then."""
        child = self._living.get((id, generation))
        return child is not None and child.address == sender

    def stop(self, id: str, generation: int, deadline_s: float, reason: ExitReason) -> None:
        """Ask it to end within `deadline_s` seconds."""
        child = self._living.get((id, generation))
        if child is not None:
            self._actor.background(self._ask_to_stop(child, deadline_s, reason), name="stop")

    def kill(self, id: str, generation: int) -> None:
        """End its process, if that is there still."""
        self._kill(self._living.get((id, generation)))

    def exited(self, address: Address) -> None:
        """Thespian says that the process at `address` is gone."""
        child = self._by_address.get(address)
        if child is not None:
            self._dead(child)

    def spawn(self, spec: ChildSpec, generation: int) -> None:
        """Create a process for it, which waits for its turn."""
        child = _Child(spec, generation, self._actor.loop.create_future())
        self._living[spec.id, generation] = child
        child.task = self._actor.background(self._raise(child), name=f"start {spec.id}")

    async def _raise(self, child: _Child) -> None:
        """Bring a child up, from no process to ready."""
        spec, generation = child.spec, child.generation
        try:
            address = await self._actor.create(
                actor_named(spec.start), timeout=spec.start_timeout_s, requires=spec.requires
            )
            child.process = self._process(child, address)
        except asyncio.CancelledError:
            self._gone(child, "it was killed before it was up")
            raise
        except ProcessLookupError:
            self._gone(child, "its process ended as soon as it was up")
            return
        except Exception as error:
            self._gone(child, sentence(error))
            return
        child.address = address
        self._by_address[address] = child
        child_silent = self._actor.watch(address, lambda: self._silent(child))
        self._driver.perform(
            self._driver.tree.spawned(
                spec.id, generation, address.pid, str(address), self._driver.now()
            )
        )
        try:
            needs = await child.turn
            if spec.alone and address.node == self._actor.address.node:
                await predecessors_gone(self._actor, join(self._actor.path, spec.id), address.pid)
            ready = await self._actor.ask(
                address,
                StartChild(
                    path=join(self._actor.path, spec.id),
                    generation=generation,
                    parent=str(self._actor.address),
                    root=self._actor.root or str(self._actor.address),
                    args=spec.args,
                    needs=needs,
                    place=self._place_of(child),
                ),
                timeout=spec.start_timeout_s + _MARGIN_S,
            )
        except TetherError as error:
            if not child.silent:  # else its exit says more
                self._driver.perform(
                    self._driver.tree.start_failed(
                        spec.id,
                        generation,
                        sentence(error),
                        self._driver.now(),
                        excuse=ExternalCause.in_error(error),
                    )
                )
        except asyncio.CancelledError:
            child_silent()
            raise
        else:
            assert isinstance(ready, ChildReady)
            child.attended = self._actor.background(
                attend(self._actor, spec, address, lambda why: self._doomed(child, why)),
                name=f"attend {spec.id}",
            )
            self._driver.perform(
                self._driver.tree.ready(
                    spec.id,
                    generation,
                    address.pid,  # not what it says of itself: by these it is killed
                    str(address),
                    self._driver.now(),
                    strategy=ready.strategy,
                )
            )

    def _place_of(self, child: _Child) -> tuple[int, ...] | None:
        here = child.address is not None and child.address.node == self._actor.address.node
        return (
            (*self._actor.child_numbers, self._driver.tree.number(child.spec.id)) if here else None
        )

    def _process(self, child: _Child, address: Address) -> ChildProcess | PlacedProcess:
        """The process of a child, wherever it is."""
        if address.node == self._actor.address.node:
            return ChildProcess(self._actor.loop, address.pid, lambda: self._dead(child))
        # There is no process to look at: its connection's end, or silence, is its end.
        return PlacedProcess(address, self._actor.kill_placed, lambda: self._dead(child))

    async def _ask_to_stop(self, child: _Child, deadline_s: float, reason: ExitReason) -> None:
        if child.address is None:
            self._kill(child)  # it was never told to start
            return
        timeout = min(deadline_s, _A_YEAR_S) + _MARGIN_S
        with suppress(TetherError):  # its exit is the answer; whoever stays is killed
            await self._actor.ask(
                child.address, StopChild(deadline_s=deadline_s, reason=reason), timeout=timeout
            )
            # It has let go of everything; what is left is the interpreter's own tidying.
            child.timers.append(self._actor.loop.call_later(_LAST_WORDS_S, self._kill, child))

    def _doomed(self, child: _Child, why: str) -> None:
        spec = child.spec
        self._driver.perform(
            self._driver.tree.doomed(spec.id, child.generation, why, self._driver.now())
        )

    def _kill(self, child: _Child | None) -> None:
        if child is None:
            return
        if child.process is not None:
            child.process.kill()
        elif child.task is not None:
            child.task.cancel()  # which kills what was created

    def _dead(self, child: _Child) -> None:
        """Its process has ended. What it said last may still lie in the socket."""
        child.dead = True
        if child.silent:
            self._gone(child, "")
        else:
            child.timers.append(self._actor.loop.call_later(_LAST_WORDS_S, self._gone, child, ""))

    def _silent(self, child: _Child) -> None:
        """Its connection has ended; its process should too."""
        child.silent = True
        if isinstance(child.process, PlacedProcess):
            child.process.kill()  # we may have lost it, and it not us
        if child.dead:
            self._gone(child, "")
        else:
            child.timers.append(self._actor.loop.call_later(_LINGER_S, self._kill, child))

    def _gone(self, child: _Child, error: str) -> None:
        """Nothing is left of it. Safe to call twice."""
        if self._living.pop((child.spec.id, child.generation), None) is None:
            return
        for timer in child.timers:
            timer.cancel()
        if child.attended is not None:
            child.attended.cancel()
        if child.process is not None:
            child.process.close()
        if child.address is not None:
            self._by_address.pop(child.address, None)
        if child.task is not None and child.task is not asyncio.current_task():
            child.task.cancel()
        excuse = None
        if child.address is None and disk.shortage(Path(self._actor.node_options.run_dir), 1):
            excuse = ExternalCause.DISK_FULL  # it needs a socket, and can't tell without one
        self._driver.perform(
            self._driver.tree.exited(
                child.spec.id, child.generation, self._driver.now(), error, excuse=excuse
            )
        )


def actor_named(start: str) -> type[Actor]:
    """A stand-in for the class `module:Class` that carries its name and nothing else, so that a
    supervisor needn't import what its children run (Thespian reads both names, and the module
    of the stand-in must be imported)."""
    module, _, name = start.partition(":")
    top, _, rest = module.partition(".")
    __import__(top)
    check = staticmethod(Actor.actorSystemCapabilityCheck)
    members = {"__module__": top, "actorSystemCapabilityCheck": check}
    return type(f"{rest}.{name}" if rest else name, (), members)
