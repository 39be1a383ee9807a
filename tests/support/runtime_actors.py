"""The actors that the tests of the runtime start, importable by the processes they run in."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from thespian.actors import Actor as ThespianActor

import supervision.runtime.thespian_base
from actors.errors import ContextExceeded
from supervision.contracts import Contract
from supervision.errors import RateLimited
from supervision.runtime import Actor, Address, on
from supervision.security.audience import NODE

DIES = "RT_DIES_AT_IMPORT"
if os.environ.get(DIES):
    os._exit(3)


class RtPing(Contract, frozen=True):
    number: int = 0
    delay_s: float = 0.0
    payload: str = ""


class RtPong(Contract, frozen=True):
    number: int
    payload: str = ""


class RtSync(Contract, frozen=True):
    number: int


class RtNothing(Contract, frozen=True):
    pass


class RtFail(Contract, frozen=True):
    how: str


class RtCount(Contract, frozen=True):
    """Opens a stream of so many RtPongs."""

    items: int
    delay_s: float = 0.0
    fail_at: int = -1
    payload: str = ""


class RtReport(Contract, frozen=True):
    """What the actor has noted of what it does."""


class RtReported(Contract, frozen=True):
    notes: tuple[str, ...]
    running: int = 0


class RtCreate(Contract, frozen=True):
    kind: str


class RtCreated(Contract, frozen=True):
    address: str
    pid: int


class RtAdopt(Contract, frozen=True):
    """Whom to tell RtNothing when it stops."""

    parent: str


class RtUnanswered(Contract, frozen=True):
    """Nobody has a handler for it."""


class RtRead(Contract, frozen=True):
    """Reads a stream of another actor and keeps it open."""

    address: str
    items: int


class RtExit(Contract, frozen=True):
    reason: str


class RtCrash(Contract, frozen=True):
    pass


class Echo(Actor):
    max_handlers = 16

    def __init__(self) -> None:
        self.notes: list[str] = []

    @on(RtSync, of=NODE)
    def sync(self, msg: RtSync, sender: Address) -> RtPong:
        return RtPong(number=msg.number)

    @on(RtPing, of=NODE)
    async def ping(self, msg: RtPing, sender: Address) -> RtPong:
        try:
            if msg.delay_s:
                await asyncio.sleep(msg.delay_s)
        except asyncio.CancelledError as error:
            await asyncio.sleep(0.05)  # cleaning up isn't cancelled a second time
            self.notes.append("ping " + " ".join(error.args))
            raise
        return RtPong(number=msg.number, payload=msg.payload)

    @on(RtNothing, of=NODE)
    async def nothing(self, msg: RtNothing, sender: Address) -> None:
        self.notes.append("nothing")

    @on(RtFail, of=NODE)
    async def fail(self, msg: RtFail, sender: Address) -> None:
        if msg.how == "rate":
            raise RateLimited("too much", retry_after_s=2.5, param="tokens")
        if msg.how == "context":
            raise ContextExceeded("too long")
        raise ValueError("a secret that stays here")

    @on(RtCount, of=NODE)
    async def count(self, msg: RtCount, sender: Address) -> AsyncIterator[RtPong]:
        number = -1
        try:
            for number in range(msg.items):
                if number == msg.fail_at:
                    raise RateLimited("no more")
                if msg.delay_s:
                    await asyncio.sleep(msg.delay_s)
                yield RtPong(number=number, payload=msg.payload)
        except asyncio.CancelledError as error:
            self.notes.append(f"count {error.args[0]} at {number}")
            raise
        finally:
            self.notes.append(f"count ended at {number}")

    @on(RtReport, of=NODE)
    def report(self, msg: RtReport, sender: Address) -> RtReported:
        return RtReported(notes=tuple(self.notes), running=self._serving.running)

    @on(RtRead, of=NODE)
    async def read(self, msg: RtRead, sender: Address) -> RtPong:
        self.open = self.stream(msg.address, RtCount(items=1_000_000), credit=8)
        taken = 0
        async for _ in self.open:
            taken += 1
            if taken == msg.items:
                break
        return RtPong(number=taken)

    @on(RtExit, of=NODE)
    def leave(self, msg: RtExit, sender: Address) -> RtPong:
        self.exit_process(msg.reason)
        self.exit_process(msg.reason)
        return RtPong(number=0)

    @on(RtCrash, of=NODE)
    def crash(self, msg: RtCrash, sender: Address) -> None:
        ctypes.string_at(0)


class Parent(Echo):
    @on(RtCreate, of=NODE)
    async def make(self, msg: RtCreate, sender: Address) -> RtCreated:
        kinds = {"echo": Echo, "late": Late, "unborn": Unborn, "dies": Echo}
        if msg.kind == "dies":
            os.environ[DIES] = "1"
        try:
            address = await self.create(kinds[msg.kind], timeout=60)
        finally:
            os.environ.pop(DIES, None)
        self.watch(address, lambda: self.notes.append("watched"))
        return RtCreated(address=str(address), pid=address.pid)

    def on_child_exited(self, address: Address) -> None:
        self.notes.append(f"exited {address} {time.monotonic()}")


class Gated(Echo):
    """Has started when the file `gate` is in the run directory."""

    async def started(self) -> None:
        gate = Path(self._hub.run_dir) / "gate"
        while not gate.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # what was sent before the gate was opened is here by now
        self.notes.append("started")


class Late(Echo):
    async def started(self) -> None:
        await asyncio.sleep(0.3)
        self.notes.append("started")

    async def stopping(self) -> None:
        self.tell(self.parent, RtNothing())

    @on(RtAdopt, of=NODE)
    def adopt(self, msg: RtAdopt, sender: Address) -> None:
        self.parent = msg.parent


class Picky(Echo):
    """Runs only where there is a GPU."""

    @staticmethod
    def actorSystemCapabilityCheck(  # noqa: N802 - Thespian's name
        capabilities: dict[str, object], requirements: object = None
    ) -> bool:
        return bool(capabilities.get("gpu"))


class OffTheList(Picky):
    """Which a test leaves out of the list of a node."""


class ForItself(Picky):
    """Which a node of a test starts for itself, and for no other."""


class Broken(Echo):
    async def started(self) -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("it can't")


class Unborn(Echo):
    def __init__(self) -> None:
        raise RuntimeError("not even this")


class Threaded(Echo):
    """Has a thread that doesn't end."""

    async def started(self) -> None:
        supervision.runtime.thespian_base.END_S = 0.5  # type: ignore[misc]
        threading.Thread(target=time.sleep, args=(60,)).start()


class Stubborn(Echo):
    """Doesn't stop within its time."""

    stop_timeout_s = 0.3

    async def stopping(self) -> None:
        await asyncio.sleep(60)


class PlainChild(ThespianActor):
    def receiveMessage(self, msg: object, sender: object) -> None:  # noqa: N802
        pass


class PlainParent(ThespianActor):
    """Starts a child that is none of ours, and tells its own pid."""

    def receiveMessage(self, msg: object, sender: object) -> None:  # noqa: N802
        if msg == "make":
            self.createActor(PlainChild)
            self.send(sender, os.getpid())
