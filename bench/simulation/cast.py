"""The real gateway, scheduler, roster and worker, with simulated keys, models and database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any
from zlib import crc32

from actors.contracts import (
    AnswerFetched,
    Billed,
    BreakerStates,
    Catalog,
    ChatInput,
    FetchAnswer,
    Finish,
    Fleet,
    ModelCard,
    Renew,
    Renewed,
    Reserve,
    Reserved,
    Sampling,
    Settle,
    Settled,
    TextInput,
    WatchFleet,
)
from actors.contracts.operating import KeepBreakers
from actors.engines.engine import Capabilities, Snapshot
from actors.engines.generation import Delta, Generation
from actors.errors import ModelUnusable, WorkerLost
from actors.gateway.admission import TenantLimits
from actors.gateway.fleet_view import FleetView
from actors.gateway.gateway import Gateway
from actors.gateway.keyring import Caller
from actors.gateway.options import GatewayOptions
from actors.gateway.request_session import RequestSession
from actors.roster import Roster, RosterOptions
from actors.scheduler.placement import Placement
from actors.scheduler.scheduler import Scheduler, SchedulerOptions
from actors.scheduler.worker_breakers import WorkerBreakers
from actors.stores.sweep_clock import SweepClock
from actors.worker.options import WorkerOptions
from actors.worker.run import ModelRun
from actors.worker.worker import Worker
from bench.simulation.ledger import LEASE_S, RENEW_S
from bench.simulation.process import Body
from bench.simulation.world import World
from supervision.errors import Unavailable
from supervision.follower import Follower
from supervision.policies import BreakerOptions, Mode
from supervision.runtime import Address, on

CARDS = tuple(
    ModelCard(name=name, version="1", engine="echo", memory_mib=1) for name in ("sim", "other")
)
"""Where memory is short, a worker has room for one."""
LIMITS = TenantLimits(concurrency=64)
SWEEP_S = 0.25  # of reservation
RESERVE_PATIENCE_S, SETTLE_PATIENCE_S = 0.4, 1.5
LOOK_S = 0.02
SLOTS, QUEUE = 2, 2


class Counted(ModelRun):
    """With a hash that doesn't depend on where it lies in memory."""

    __slots__ = ("number",)
    made = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        Counted.made += 1
        self.number = Counted.made

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


def answer(prompt: str) -> list[int]:
    """What the simulated model says to `prompt`: 1 to 16 tokens."""
    seed = crc32(prompt.encode())
    return [crc32(b"%d %d" % (seed, n)) % 50_000 for n in range(1 + seed % 16)]


class TokenEngine:
    """A model without weights; it fails now and then, or always when it is `rotten`."""

    def __init__(self, world: World) -> None:
        self.capabilities = Capabilities(resume="exact", tag="sim/1", context=4096, chat=True)
        self.slots = SLOTS
        self._world = world
        self._dice = world.dice
        self._rotten = world.unlucky(0.3)
        self._pace_s = world.dice.choice((0.002, 0.02, 0.1))
        self._closed = False

    async def prompt(self, input: ChatInput | TextInput) -> tuple[int, ...]:
        assert isinstance(input, TextInput)
        return tuple(input.prompt.encode())

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        pass

    async def run(self, job: Generation) -> AsyncGenerator[Delta, None]:
        tokens = answer(bytes(job.prompt_ids).decode())
        at = len(job.emitted_ids)
        if list(job.emitted_ids) != tokens[:at]:
            self._world.laws.broken("a run was continued from tokens that were never said")
        while at < len(tokens):
            await asyncio.sleep(self._pace_s * self._dice.random())
            if self._closed:
                self._world.laws.broken("an engine was closed while it answered")
            if self._world.unlucky(0.5 if self._rotten else 0.005):
                raise WorkerLost("the simulated engine broke")
            last = at + 1 == len(tokens)
            yield Delta((tokens[at],), f" {tokens[at]}", Finish.STOP if last else None)
            at += 1
        if not tokens[len(job.emitted_ids) :]:
            yield Delta((), "", Finish.STOP)

    def snapshot(self) -> Snapshot:
        return Snapshot()

    async def close(self) -> None:
        self._closed = True


def engines(world: World) -> Callable[..., Coroutine[Any, Any, TokenEngine]]:
    """A `loader.load` of models without weights."""

    async def load(card: ModelCard, **_: object) -> TokenEngine:
        if world.tight:
            await asyncio.sleep(world.dice.uniform(0.01, 0.2))
            if world.unlucky(0.1):
                raise ModelUnusable("the simulated files can't be read")
        return TokenEngine(world)

    return load


class SimWorker(Body, Worker):  # type: ignore[misc]
    async def begin(self) -> None:
        world = self.process.world
        id = self.process.path.rpartition("/")[2]
        options = WorkerOptions(
            worker_id=id,
            node_id="n1",
            cards=CARDS if world.tight else CARDS[:1],
            model_memory_mib=1,
            keep_loaded_s=0.2,
            cache_dir="",
            slots=SLOTS,
            queue=QUEUE,
            grace_s=1.0,
            keep_s=4.0,
            report_s=1.0,
            catalog_s=0.0,
            region=world.dice.choice(("local", "far")),
            renew_s=RENEW_S,
        )
        await self.start(options)
        self._runs.begin = world.laws.dispatched(self.process, self._runs.begin)  # type: ignore


class SimRoster(Body, Roster):  # type: ignore[misc]
    async def begin(self) -> None:
        await self.start(RosterOptions(suspect_s=1.5, expiry_s=3.0))


class SimScheduler(Body, Scheduler):  # type: ignore[misc]
    async def begin(self) -> None:
        await self.start(SchedulerOptions(patience_s=2.0, reserve_s=0.6))

    def _see(self, fleet: Fleet) -> None:
        placement = self._placement
        known = {seat.address for seat in placement._seats.values()}
        super()._see(fleet)
        self.process.world.laws.new_seats(placement, known)


def placement(dice: random.Random) -> Callable[..., Placement]:
    """A `Placement` with dice of ours, and breakers quick enough for a short life."""
    options = BreakerOptions(calls=4, window_s=5, open_s=1)
    return lambda region, _: Placement(region, dice.random, WorkerBreakers(options))


class Keys:
    """Every key is good."""

    questions = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def open(self) -> None:
        pass

    async def watch(self) -> None:
        pass

    def known(self, credential: str, now: float) -> Caller:
        return Caller(credential, LIMITS)

    async def close(self) -> None:
        pass

    def __len__(self) -> int:
        return 0


class Around(FleetView):
    """Knows the catalog from the beginning."""

    def follow(self) -> Follower:
        self._see_catalog(Catalog(version=1, models=CARDS))
        fleet = Follower(self._actor, "control/roster", WatchFleet(), self._see_fleet)
        self._actor.background(fleet.run(), name="fleet")
        known = Follower(self._actor, "", WatchFleet(), lambda _: None)
        known.first.set()
        return known


class SimGateway(Body, Gateway):  # type: ignore[misc]
    async def begin(self) -> None:
        await self.start(GatewayOptions(dsn="postgresql://", grace_s=1.0, renew_s=RENEW_S))

    def ended(self, session: RequestSession) -> None:
        super().ended(session)
        self.process.world.laws.answered(self.process, session)


class SimReservation(Body):
    """`actors.reservation` before a database that is away now and then: rounds take their time,
    and a kill, or the end of a caller's patience, may fall between the commit and the answer."""

    async def begin(self) -> None:
        self.up_since = self.loop.time()
        self.background(self._sweep())

    async def stop(self, deadline_s: float) -> None:
        pass

    @on(Reserve)
    async def reserve(self, msg: Reserve, sender: Address) -> Reserved:
        patience_s = min(msg.deadline_s, RESERVE_PATIENCE_S)
        await self._round(patience_s)
        reserved = self.process.world.ledger.reserve(msg, self.loop.time())
        self.process.world.trace.add(
            "reserved",
            msg.job.job_id[-6:],
            msg.ownership.attempt,
            reserved.assignment.fencing_token,
            reserved.assignment.state,
        )
        await self._round(patience_s)
        return reserved

    @on(FetchAnswer)
    async def fetch_answer(self, msg: FetchAnswer, sender: Address) -> AnswerFetched:
        await self._round()
        job = self.process.world.ledger.jobs.get(msg.job_id)
        if job is None or job.tenant_id != msg.tenant_id:
            return AnswerFetched()
        kept = self.process.world.ledger.answers.get(job.id, b"")
        await self._round()
        return AnswerFetched(answer=kept, billed=None if kept else Billed(job_id=job.id))

    @on(KeepBreakers)
    async def keep_breakers(self, msg: KeepBreakers, sender: Address) -> BreakerStates:
        await self._round()
        kept = self.process.world.ledger.breakers
        for state in msg.breakers:
            for key in [k for k in kept if not state.model_ref and k[0] == state.worker_id]:
                del kept[key]
            kept[state.worker_id, state.model_ref] = state
        await self._round()
        return BreakerStates(breakers=tuple(s for s in kept.values() if s.mode != Mode.AUTOMATIC))

    @on(Settle)
    async def settle(self, msg: Settle, sender: Address) -> Settled:
        await self._round()
        node = "" if sender.node == self.address.node else sender.node
        first = self.process.world.ledger.settle(msg, node)
        self.process.world.laws.billed_once()
        self.process.world.trace.add(
            "settled", msg.job_id[-6:], msg.fencing_token, msg.outcome, first
        )
        await self._round()
        return Settled(job_id=msg.job_id, first=first)

    @on(Renew)
    async def renew(self, msg: Renew, sender: Address) -> Renewed:
        await self._round(patience_s=0.0)
        node = "" if sender.node == self.address.node else sender.node
        ledger, now = self.process.world.ledger, self.loop.time()
        gone = tuple(one.job_id for one in msg.jobs if not ledger.renew(one, now, node))
        await self._round(patience_s=0.0)
        return Renewed(gone=gone)

    async def _round(self, patience_s: float = SETTLE_PATIENCE_S) -> None:
        world = self.process.world
        until = world.now + patience_s
        await asyncio.sleep(world.dice.uniform(0.0005, 0.003))
        while world.outage:
            if world.now >= until:
                raise Unavailable("the simulated database doesn't answer")
            await asyncio.sleep(LOOK_S)
        if world.hung and world.hangs.random() < 0.5:  # before the commit, or after it, or both
            while world.hung:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    async def _sweep(self) -> None:
        world, clock = self.process.world, SweepClock(LEASE_S)
        clock.begins(self.loop.time())
        while True:
            await asyncio.sleep(SWEEP_S)
            if world.outage or world.hung:
                clock.begins(self.loop.time())
            elif clock.may_sweep(self.loop.time()):
                world.ledger.sweep(self.loop.time())


ACTORS: dict[str, type[Body]] = {
    "worker": SimWorker,
    "roster": SimRoster,
    "scheduler": SimScheduler,
    "gateway": SimGateway,
    "reservation": SimReservation,
}
