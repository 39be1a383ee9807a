"""Dispatch of contracts to the handlers of an actor: which, from whom, how many at once.

A contract is taken of the audience that its handler declares, and of nobody else: of what a peer is
by its socket or its certificate (`supervision.security.audience`), before a handler runs, or the
contract waits for one.

Synchronous handlers answer within the turn of the loop in which the frame arrived; the others
run as tasks, at most `max_handlers` of them. Contracts that come before the actor has started,
or while it is suspended, wait, at most `MAX_HELD` of them and about `MAX_HELD_BYTES`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Final

from supervision.contracts import Contract, ControlMessage
from supervision.contracts.operating import ActorState
from supervision.errors import Cancelled, Draining, Internal, Overloaded, ProtocolError, TetherError
from supervision.runtime.audience_refusals import AudienceRefusals
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.codec import decode, encode
from supervision.runtime.connections import Connections
from supervision.runtime.exchanges import refuse
from supervision.runtime.handlers import STREAM, SYNC, Entry, handlers_of
from supervision.runtime.peer import Peer, Served, end
from supervision.runtime.streams import Producer
from supervision.runtime.wire import HEADER, OPEN, OVERHEAD, REPLY, TELL, U32
from supervision.security.audience import OWN, Audience
from supervision.telemetry import bounds

MAX_HELD: Final = 4096
MAX_HELD_BYTES: Final = 32 << 20

_refused = bounds.refused.labels("actor_handlers")
_pack_header = HEADER.pack


class Dispatch:
    """Takes the requests that come over `Connections` to the handlers of one actor."""

    def __init__(self, hub: Connections, handlers: dict[type, Entry], limit: int, who: str) -> None:
        """Holds requests back until `begin`."""
        self._hub = hub
        self._loop = hub.loop
        self._handlers = handlers
        self._limit = limit
        self._who = who
        self._refusals = AudienceRefusals(self._loop, hub.address, who)
        self._tasks: dict[asyncio.Task[Any], Served] = {}
        self._held: deque[tuple[Peer, int, int, bytes]] = deque()
        self._held_bytes = 0
        self.state = ActorState.STARTING
        self._since = self._loop.time()
        hub.on_request = self._hold
        hub.on_cancel = self._unhold

    def begin(self) -> None:
        """The actor has started, or is to go on: serves what was held back, and all that comes."""
        self._becomes(ActorState.RUNNING)
        self._hub.on_request = self._take
        while self._held:
            held = self._held.popleft()
            if held[1] == TELL or not held[0].closed:  # nobody would end what works for it
                self._take(*held)
        self._held_bytes = 0

    def add(self, part: object) -> None:
        """A part of the actor answers as well.

        Raises:
            TypeError: somebody answers one of its contracts already.
        """
        for contract, entry in handlers_of(part).items():
            other = self._handlers.get(contract)
            if other is not None:
                raise TypeError(
                    f"{type(part).__name__} answers {contract.__name__}, which "
                    f"{other[0].__qualname__} of {self._who} does already: keep one"
                )
            self._handlers[contract] = entry

    def suspend(self) -> None:
        """Holds back what comes, but for what operators and supervisors say; safe to call twice.
        Nothing happens to an actor that starts or stops."""
        if self.state is ActorState.RUNNING:
            self._becomes(ActorState.SUSPENDED)
            self._hub.on_request = self._sift

    def resume(self) -> None:
        """Undoes `suspend`; safe to call twice."""
        if self.state is ActorState.SUSPENDED:
            self.begin()

    def refuse_all(self, error: TetherError) -> None:
        """Answers all that is held back, and all that comes, with `error`."""
        self._becomes(ActorState.STOPPING)

        def refusal(peer: Peer, kind: int, number: int, _payload: bytes) -> None:
            if kind != TELL:
                refuse(peer, number, error)

        self._hub.on_request = refusal
        while self._held:
            refusal(*self._held.popleft())
        self._held_bytes = 0

    async def stop(self) -> None:
        """Refuses what comes, cancels what runs, and waits for it."""
        self.refuse_all(Draining(f"{self._who} is stopping"))
        for served in list(self._tasks.values()):
            end(served, CancelCause.STOPPING)
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    @property
    def running(self) -> int:
        return len(self._tasks)

    @property
    def held(self) -> int:
        """Requests that wait."""
        return len(self._held)

    @property
    def since_s(self) -> float:
        """Seconds in the present state."""
        return self._loop.time() - self._since

    @property
    def answers(self) -> tuple[str, ...]:
        """The contracts that are answered."""
        return tuple(sorted(contract.__name__ for contract in self._handlers))

    @property
    def busy(self) -> Iterator[str]:
        """The methods that work on requests, once for each of these."""
        for task, served in self._tasks.items():
            if isinstance(served, Producer):
                yield served.name
            else:  # the coroutine of a handler is what its task waits for
                waits = getattr(task.get_coro(), "cr_await", None)
                yield getattr(waits, "__name__", "starting")

    def _becomes(self, state: ActorState) -> None:
        self.state, self._since = state, self._loop.time()

    def _hold(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        if not peer.audience & OWN.mask and self._turned_away(peer, kind, number, payload):
            return  # nobody's mailbox is filled by whom it will not answer
        if len(self._held) < MAX_HELD and self._held_bytes < MAX_HELD_BYTES:
            self._held_bytes += len(payload)
            self._held.append((peer, kind, number, payload))
        else:
            _refused.inc()
            if kind != TELL:
                starts = self.state is ActorState.STARTING
                why = "is still starting" if starts else f"is {self.state}"
                refuse(peer, number, Overloaded(f"{self._who} {why}, and its mailbox is full"))

    def _turned_away(self, peer: Peer, kind: int, number: int, payload: bytes) -> bool:
        """Was it refused, for it will be whenever it is taken?"""
        try:
            contract = decode(memoryview(payload)[U32.size :] if kind == OPEN else payload)
        except TetherError as error:
            self._failed(peer, kind, number, error)
            return True
        entry = self._handlers.get(type(contract))  # a part that does may still be added
        if entry is None or peer.audience & entry[2]:
            return False
        self._forbid(peer, kind, number, contract, entry[2])
        return True

    def _forbid(self, peer: Peer, kind: int, number: int, contract: Contract, mask: int) -> None:
        error = self._refusals.refuse(peer, type(contract).__name__, Audience(mask))
        if kind != TELL:
            refuse(peer, number, error)

    def _sift(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        """One request while the actor is suspended."""
        try:
            contract = decode(memoryview(payload)[U32.size :] if kind == OPEN else payload)
        except TetherError:
            self._take(peer, kind, number, payload)  # which says what is wrong with it
            return
        if isinstance(contract, ControlMessage):
            self._take(peer, kind, number, payload)
        else:
            self._hold(peer, kind, number, payload)

    def _unhold(self, peer: Peer, number: int) -> None:
        for held in self._held:
            if held[0] is peer and held[2] == number:
                self._held.remove(held)
                self._held_bytes -= len(held[3])
                return

    def _take(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        """One request; all that goes wrong becomes its answer."""
        try:
            if kind == OPEN:
                if len(payload) < U32.size:
                    raise ProtocolError(f"a stream was opened in {len(payload)} bytes: no credit")
                credit = U32.unpack_from(payload)[0]
                contract = decode(memoryview(payload)[U32.size :])
            else:
                contract = decode(payload)
            entry = self._handlers.get(type(contract))
            if entry is None:
                raise ProtocolError(f"{self._who} doesn't answer {type(contract).__name__}")
            handler, mode, mask = entry
            if not peer.audience & mask:
                self._forbid(peer, kind, number, contract, mask)
                return
            if kind == OPEN:
                if mode != STREAM:
                    raise ProtocolError(
                        f"{type(contract).__name__} opens no stream at {self._who}: ask it"
                    )
                self._admit()
                self._stream(peer, number, credit, handler(contract, peer.address))
                return
            if mode == SYNC:
                answer = handler(contract, peer.address)
                if kind != TELL:
                    reply(peer, number, answer)
                return
            if mode == STREAM:
                raise ProtocolError(f"{type(contract).__name__} opens a stream: open one")
            self._admit()
            if kind == TELL:
                self._start(self._told(peer, handler, contract))
            else:
                serving = peer.serving
                task = serving[number] = self._start(self._asked(peer, number, handler, contract))
                task.add_done_callback(lambda _: serving.pop(number, None))
        except TetherError as error:
            self._failed(peer, kind, number, error)
        except Exception as error:
            self._refusals.broke(peer, error)
            self._failed(peer, kind, number, error)

    def _failed(self, peer: Peer, kind: int, number: int, error: Exception) -> None:
        if kind == TELL:
            self._refusals.dropped(peer, error)
        else:
            refuse(peer, number, error)

    def _admit(self) -> None:
        if len(self._tasks) >= self._limit:
            _refused.inc()
            raise Overloaded(f"{self._who} works on {len(self._tasks)} requests already")

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = task
        task.add_done_callback(self._tasks.pop)
        return task

    def _stream(
        self, peer: Peer, number: int, credit: int, items: AsyncGenerator[Contract, None]
    ) -> None:
        producer = Producer(peer, number, credit)
        serving = peer.serving
        serving[number] = producer
        task = producer.run(items)
        self._tasks[task] = producer
        task.add_done_callback(self._tasks.pop)
        task.add_done_callback(lambda _: serving.pop(number, None))

    async def _asked(
        self, peer: Peer, number: int, handler: Callable[..., Any], contract: Contract
    ) -> None:
        try:
            reply(peer, number, await handler(contract, peer.address))
        except TetherError as error:
            refuse(peer, number, error)
        except asyncio.CancelledError as error:
            why: TetherError = Cancelled("the request was cancelled")
            if CancelCause.of(error) is CancelCause.STOPPING:
                why = Draining(f"{self._who} is stopping")
            refuse(peer, number, why)  # who has left ignores it
            raise
        except Exception as error:
            self._refusals.broke(peer, error)
            refuse(peer, number, error)

    async def _told(self, peer: Peer, handler: Callable[..., Any], contract: Contract) -> None:
        try:
            await handler(contract, peer.address)
        except TetherError as error:
            self._refusals.dropped(peer, error)
        except Exception as error:
            self._refusals.broke(peer, error)


def reply(peer: Peer, number: int, answer: Contract | None) -> None:
    """Answers an ask; an answer that can't be sent becomes an error there."""
    payload = b"" if answer is None else encode(answer)
    size = len(payload) + OVERHEAD
    if size > peer.max_frame:
        refuse(peer, number, Internal(f"the answer of {size} bytes is too large for the wire"))
        return
    peer.send(_pack_header(size, REPLY, number) + payload)
