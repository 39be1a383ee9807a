"""The actors of `bench/runtime.py`, importable by the processes they run in."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from thespian.actors import Actor as ThespianActor

from supervision.contracts import Contract
from supervision.runtime import Actor, Address, on
from supervision.security.audience import NODE

PAYLOAD = "x" * 200
CHUNK = "c" * 64


class BenchPing(Contract, frozen=True):
    number: int
    payload: str


class BenchChunks(Contract, frozen=True):
    items: int


class BenchDrive(Contract, frozen=True):
    """Asks `target` `trips` times, `in_flight` at once; a stream of `trips` items if it is 0."""

    target: str
    in_flight: int
    trips: int


class BenchDriven(Contract, frozen=True):
    seconds: float


class BenchEcho(Actor):
    @on(BenchPing, of=NODE)
    async def ping(self, msg: BenchPing, sender: Address) -> BenchPing:
        return msg

    @on(BenchChunks, of=NODE)
    async def chunks(self, msg: BenchChunks, sender: Address) -> AsyncIterator[BenchPing]:
        for number in range(msg.items):
            yield BenchPing(number=number, payload=CHUNK)


class BenchDriver(Actor):
    @on(BenchDrive, of=NODE)
    async def drive(self, msg: BenchDrive, sender: Address) -> BenchDriven:
        target, left = Address.parse(msg.target), msg.trips

        async def trips() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self.ask(target, BenchPing(number=left, payload=PAYLOAD))

        began = time.perf_counter()
        if msg.in_flight:
            await asyncio.gather(*(trips() for _ in range(msg.in_flight)))
        else:
            async for _ in self.stream(target, BenchChunks(items=msg.trips)):
                left -= 1
        return BenchDriven(seconds=time.perf_counter() - began)


class PlainPing:
    def __init__(self, number: int, payload: str) -> None:
        self.number, self.payload = number, payload


class PlainDrive:
    def __init__(self, target: Any, in_flight: int, trips: int) -> None:
        self.target, self.in_flight, self.trips = target, in_flight, trips


class PlainEcho(ThespianActor):
    """Sends back what it gets, but takes chunks in silence up to the last, number 0."""

    def receiveMessage(self, msg: Any, sender: Any) -> None:  # noqa: N802
        if msg == "pid":
            self.send(sender, os.getpid())
        elif isinstance(msg, PlainPing) and (msg.payload == PAYLOAD or msg.number == 0):
            self.send(sender, msg)


class PlainDriver(ThespianActor):
    def receiveMessage(self, msg: Any, sender: Any) -> None:  # noqa: N802
        if msg == "pid":
            self.send(sender, os.getpid())
        elif isinstance(msg, PlainDrive):
            self.asker, self.target = sender, msg.target
            self.began = time.perf_counter()
            if msg.in_flight:
                self.waiting, self.left = msg.trips, msg.trips - msg.in_flight
                for number in range(msg.in_flight):
                    self.send(self.target, PlainPing(number, PAYLOAD))
            else:
                self.waiting, self.left = 1, 0
                for number in reversed(range(msg.trips)):
                    self.send(self.target, PlainPing(number, CHUNK))
        elif isinstance(msg, PlainPing):
            self.waiting -= 1
            if self.waiting == 0:
                self.send(self.asker, time.perf_counter() - self.began)
            elif self.left > 0:
                self.left -= 1
                self.send(self.target, msg)
