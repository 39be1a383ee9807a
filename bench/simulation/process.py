"""A simulated process, and the surface of `supervision.runtime` and `supervision` that it offers to
the real actors: they run as they are, only what they stand on is different."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from bench.simulation.network import NOTICE_S, Pipe, Reading
from bench.simulation.view import View
from bench.simulation.world import World
from supervision.contracts import Contract
from supervision.errors import Cancelled, Draining, NoAnswer, PeerLost, ProtocolError, TetherError
from supervision.runtime import Address
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.handlers import ASYNC, STREAM, handlers_of


class Process:
    """One life of one child. `kind` is worker, gateway, …; `host` is what a partition cuts."""

    def __init__(self, world: World, path: str, generation: int, kind: str, host: str) -> None:
        world.pids += 1
        self.world = world
        self.path, self.generation, self.kind, self.host = path, generation, kind, host
        self.pid = world.pids
        self.name = f"{path.rpartition('/')[2]}.{self.pid}"
        self.address = Address("n1", f"{self.pid}.x")
        self.alive = True
        self.died_at = float("inf")
        self.actor: Any = None
        self.handlers: dict[type, Any] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._pipes: dict[Pipe, None] = {}
        self._watchers: list[tuple[Process, Callable[[], object]]] = []
        self._callers: dict[asyncio.Future[Any], None] = {}
        self._questions: dict[asyncio.Future[Any], list[asyncio.Task[Any] | None]] = {}
        self.on_death: Callable[[], None] | None = None
        world.processes[str(self.address)] = self

    def embody(self, actor: Any) -> None:
        """This is what runs in it."""
        self.actor = actor
        self.handlers = handlers_of(actor)

    # ---- tasks

    def task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it as long as the process lives."""
        if not self.alive:
            work.close()
            raise asyncio.CancelledError
        task = self.world.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if self.alive and not task.cancelled():
            error = task.exception()
            if error is not None and not isinstance(error, TetherError):
                self.world.laws.broken(f"{self.name} raised {error!r} in a task")

    # ---- the end

    def kill(self) -> None:
        """SIGKILL: nothing that it still does is seen by anybody."""
        if not self.alive:
            return
        world = self.world
        self.alive, self.died_at = False, world.loop.time()
        world.trace.add("gone", self.name)
        for task in list(self._tasks):
            task.cancel()
        for pipe in list(self._pipes):
            pipe.broke()
        for watcher, callback in self._watchers:
            delay_s = world.dice.uniform(0, NOTICE_S)
            world.loop.call_later(delay_s, _if_alive, watcher, callback)
        lost = PeerLost(f"{self.name} is gone")
        for served in self._questions.values():
            world.loop.call_later(world.dice.uniform(0, NOTICE_S), _cancel, served)
        for caller in list(self._callers):
            world.loop.call_later(world.dice.uniform(0, NOTICE_S), _fail, caller, lost)
        if self.on_death is not None:
            self.on_death()

    async def leave(self, deadline_s: float) -> None:
        """An orderly end: `stop`, then handlers are told, then it is gone."""
        with suppress(TimeoutError, TetherError):
            await asyncio.wait_for(self.actor.stop(deadline_s), max(deadline_s, 0.01))
        for pipe in list(self._pipes):
            if pipe.writer is self and pipe.task is not None:
                pipe.task.cancel(CancelCause.STOPPING)
                pipe.end(Draining("it is stopping"))
        await asyncio.sleep(0.01)
        self.kill()

    # ---- being asked

    def asked(
        self, contract: Contract, sender: Process, caller: asyncio.Future[Any]
    ) -> asyncio.Task[Any] | None:
        """A request has arrived; None where it is answered already."""
        if not self.alive:
            self._reply(sender, caller, None, PeerLost(f"{self.name} is gone"))
            return None
        entry = self.handlers.get(type(contract))
        if entry is None:
            self._reply(sender, caller, None, ProtocolError(f"no {type(contract).__name__} here"))
            return None
        return self.task(self._answer(entry, contract, sender, caller))

    async def _answer(
        self, entry: Any, contract: Contract, sender: Process, caller: asyncio.Future[Any]
    ) -> None:
        method, kind, _ = entry
        try:
            answer = method(contract, sender.address)
            if kind is ASYNC:
                answer = await answer
        except TetherError as error:
            self._reply(sender, caller, None, error)
        except asyncio.CancelledError:
            if self.alive:
                self._reply(sender, caller, None, Cancelled("the request was cancelled"))
            raise
        else:
            self._reply(sender, caller, answer, None)

    def _reply(
        self,
        sender: Process,
        caller: asyncio.Future[Any],
        answer: Any,
        error: TetherError | None,
    ) -> None:
        def arrive() -> None:
            if not caller.done():
                if error is None:
                    caller.set_result(answer)
                else:
                    caller.set_exception(error)

        word = type(answer).__name__ if error is None else error.code
        source = self if self.alive else sender  # a host says for the dead that they are
        broke = PeerLost("the connection broke")
        self.world.network.send(source, sender, word, arrive, lost=lambda: _fail(caller, broke))

    def told(self, contract: Contract, sender: Process) -> None:
        """A message has arrived that wants no answer."""
        entry = self.handlers.get(type(contract))
        if self.alive and entry is not None:
            entry[0](contract, sender.address)

    def opened(self, pipe: Pipe) -> None:
        """Somebody wants a stream."""
        if pipe.closed or pipe.over:
            return
        if not self.alive:
            pipe.broke()
            return
        method, kind, _ = self.handlers[type(pipe.opening)]
        assert kind is STREAM
        answers = method(pipe.opening, pipe.reader.address)
        if pipe.task is None:
            pipe.task = self.task(self._pump(answers, pipe.write, pipe.end))
        else:  # the opening came twice; nobody reads what is said to the second
            pipe.twin = self.task(self._pump(answers, _drop, _drop))

    async def _pump(
        self, answers: Any, write: Callable[[Any], None], end: Callable[[Any], None]
    ) -> None:
        error: BaseException | None = None
        try:
            async for item in answers:
                write(item)
        except TetherError as fault:
            error = fault
        except asyncio.CancelledError:
            error = Draining("it is stopping")
            raise
        finally:
            if self.alive:
                end(error)

    def attach(self, pipe: Pipe) -> None:
        """One end of `pipe` is here."""
        self._pipes[pipe] = None
        if len(self._pipes) > 64:
            for old in [p for p in self._pipes if p.over]:
                del self._pipes[old]

    def watched(self, by: Process, callback: Callable[[], object]) -> None:
        """`callback` when this process is gone."""
        if self.alive:
            self._watchers.append((by, callback))
        else:
            self.world.loop.call_later(0.0, _if_alive, by, callback)

    def asks(self, caller: asyncio.Future[Any], served: list[asyncio.Task[Any] | None]) -> None:
        """It waits for an answer; who answers stops when this process is gone."""
        self._questions[caller] = served
        caller.add_done_callback(lambda done: self.alive and self._questions.pop(done, None))

    def await_reply(self, caller: asyncio.Future[Any]) -> None:
        self._callers[caller] = None
        caller.add_done_callback(lambda done: self._callers.pop(done, None))


def _if_alive(process: Process, callback: Callable[[], object]) -> None:
    if process.alive:
        callback()


def _fail(caller: asyncio.Future[Any], error: TetherError) -> None:
    if not caller.done():
        caller.set_exception(error)


def _drop(_: object) -> None:
    pass


class Body:
    """Stands before an actor's class and takes the place of `supervision.runtime.Actor` and the
    shell of `supervision.Supervised`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.loop: Any = process.world.loop
        self.address = process.address
        self.pid = process.pid
        self.path = process.path
        self.needs: dict[str, Address] = {}
        self._view = View(process.world, process)
        self._operating = SimpleNamespace(allow=lambda _: None)
        process.embody(self)

    @property
    def tree(self) -> View:
        """As `Supervised.tree`."""
        return self._view

    async def ask(self, address: Address | str, contract: Contract, timeout: float = 5.0) -> Any:
        """As `Actor.ask`."""
        mine, world = self.process, self.process.world
        target = world.processes[str(address)]
        caller: asyncio.Future[Any] = world.loop.create_future()
        served: list[asyncio.Task[Any] | None] = []
        target.await_reply(caller)
        mine.asks(caller, served)
        twice = type(contract).__name__ in ("Settle", "Reserve")

        def cut() -> None:  # a loss is a connection that breaks, and shows; a partition doesn't
            delay_s = world.dice.uniform(0, NOTICE_S)
            world.loop.call_later(delay_s, _fail, caller, PeerLost("the connection broke"))

        world.network.send(
            mine,
            target,
            type(contract).__name__,
            lambda: served.append(target.asked(contract, mine, caller)),
            twice=twice,
            lost=cut,
        )
        try:
            async with asyncio.timeout(timeout):
                return await caller
        except TimeoutError:
            raise NoAnswer("there was no answer in time") from None
        finally:
            if not caller.done() or caller.cancelled():
                world.network.send(mine, target, "cancel", lambda: _cancel(served))

    def stream(self, address: Address | str, contract: Contract, credit: int = 64) -> Reading:
        """As `Actor.stream`."""
        mine, world = self.process, self.process.world
        target = world.processes[str(address)]
        pipe = Pipe(world.network, mine, target, contract)
        mine.attach(pipe)
        target.attach(pipe)
        if not target.alive or world.network.lost(mine, target):
            pipe.broke()
            return Reading(pipe)
        name = type(contract).__name__
        network = world.network
        loop = world.loop
        loop.call_later(
            network.delay_s(), network.arrive, mine, target, name, lambda: target.opened(pipe)
        )
        if target.kind == "worker" and network.doubled():
            loop.call_later(
                network.delay_s(), network.arrive, mine, target, name, lambda: target.opened(pipe)
            )
        return Reading(pipe)

    def tell(self, address: Address | str, contract: Contract) -> None:
        """As `Actor.tell`."""
        mine, world = self.process, self.process.world
        target = world.processes[str(address)]
        world.network.send(
            mine, target, type(contract).__name__, lambda: target.told(contract, mine), twice=True
        )

    def serve(self, part: object) -> None:
        """As `Actor.serve`."""
        self.process.handlers |= handlers_of(part)

    def background(self, work: Coroutine[Any, Any, Any], *, name: str = "") -> asyncio.Task[Any]:
        """As `Actor.background`."""
        return self.process.task(work)

    def watch(self, address: Address | str, callback: Callable[[], object]) -> None:
        """As `Actor.watch`."""
        self.process.world.processes[str(address)].watched(self.process, callback)

    async def fail(self, error: BaseException | str) -> None:
        """As `Supervised.fail`."""
        self.process.world.loop.call_soon(self.process.kill)


def _cancel(served: list[asyncio.Task[Any] | None]) -> None:
    for task in served:
        if task is not None and not task.done():
            task.cancel(CancelCause.CANCELLED)
