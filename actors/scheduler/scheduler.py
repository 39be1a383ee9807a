"""The actor that places requests on workers and has them reserved."""

from __future__ import annotations

import asyncio
import random
from typing import Any, ClassVar

import msgspec

from actors.follower import Follower
from actors.runtime import Address, on
from actors.scheduler.kept import Kept
from actors.scheduler.shown import Shown
from actors.settler import RESERVATION, Settler
from supervision import ChildSpec, Supervised
from supervision.policies import Ended
from tether.contracts import (
    BreakerStates,
    Finished,
    Fleet,
    Outcome,
    Place,
    Placed,
    Reserve,
    Reserved,
    SetBreaker,
    Settle,
    ShowBreakers,
    Usage,
    WatchFleet,
)
from tether.core.fairqueue import QueueFull
from tether.core.placement import Placement, Seat
from tether.core.waiting import Gone, Waiter, WaitingRoom
from tether.errors import Conflict, DeadlineExceeded, Overloaded, TetherError, Unavailable
from tether.telemetry import logs, metrics

log = logs.get(__name__)

TICK_S = 0.1
RESERVE_S = 10.0
FLEET_S = 10.0


class SchedulerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`queue` requests of all models may wait for a worker; a request whose model has no worker
    at all waits `patience_s`, since workers restart.

    Raises:
        ValueError: a bound is out of its range.
    """

    region: str = "local"
    queue: int = 4096
    patience_s: float = 15.0

    def __post_init__(self) -> None:
        if self.queue < 1 or not self.patience_s >= 0:
            raise ValueError("queue must be at least 1, and patience_s not negative")


class Scheduler(Supervised):
    """Answers `Place`. Needs roster and reservation. Holds nothing that a restart would miss:
    the fleet comes anew, and what runs shows in the workers' reports."""

    Options: ClassVar[type[msgspec.Struct]] = SchedulerOptions
    max_handlers: ClassVar[int] = 16_384

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        changes.setdefault("needs", ("roster", "reservation"))
        return super().spec(options, id=id, **changes)

    async def start(self, options: SchedulerOptions) -> None:
        self._placement = Placement(options.region, random.random)
        self._placement.node = self.address.node
        self._shown = Shown(self._placement.breakers)
        self._kept = Kept(self, self._placement.breakers)
        self._room: WaitingRoom[asyncio.Future[Seat]] = WaitingRoom(
            options.queue, options.patience_s
        )
        self._settler = Settler(self, "scheduler")
        self._refused = metrics.bound_refused.labels("scheduler_queue")
        self._queue_used = metrics.bound_used.labels("scheduler_queue")
        await self._kept.recall()
        fleet = Follower(self, "control/roster", WatchFleet(), self._see)
        self.background(fleet.run(), name="fleet")
        await asyncio.wait_for(fleet.first.wait(), FLEET_S)
        self.background(self._sweep(), name="sweep")

    @on(Place)
    async def place(self, msg: Place, sender: Address) -> Placed:
        """
        Raises:
            Overloaded: too many wait.
            Unavailable: no worker for this model came within the patience, or the breakers of all
                of them are open.
            DeadlineExceeded: it waited until its deadline.
        """
        now = self.loop.time()
        placement = self._placement
        seat = None
        if not self._room.waits_for(msg.model_ref):
            seat = placement.choose(msg.model_ref, msg.avoid, now)
        if seat is not None:
            placement.take(seat, msg.job_id, now, now + msg.deadline_s, msg.model_ref)
        else:
            if msg.again:
                found = await self._reserve(_reserve(msg, "", ""))
                if found.known:
                    return _placed(found)
            if msg.attempt == 1:
                self._refuse_shut(msg.model_ref, now)
            seat = await self._wait(msg, now)
        reserve = _reserve(msg, seat.worker_id, seat.address)
        try:
            reserved = await self._reserve(reserve)
        except BaseException as error:
            self._release(seat.worker_id, msg.job_id)
            if isinstance(error, asyncio.CancelledError) and msg.attempt == 1:
                # Nobody wants it any more, and whether it was reserved isn't known.
                self.background(self._undo(reserve), name="undo")
            # Otherwise the front door asks again, perhaps by another gateway, and adopts the job:
            # it must not be cancelled under its hands. If it doesn't, the lease runs out.
            raise
        if reserved.known or reserved.worker_address != seat.address:
            # An older reservation stands: this seat isn't needed.
            self._release(seat.worker_id, msg.job_id)
        else:
            placement.confirm(seat, msg.job_id, reserved.fence, sender)
        return _placed(reserved)

    @on(Finished)
    def finished(self, msg: Finished, sender: Address) -> None:
        """A slot is free again. Without a worker: its gateway doesn't know where the job went,
        and does not want it any more. That may come late from a gateway that is gone, when the
        one after it has the job: then it means nothing."""
        if not msg.worker_id:
            found = self._placement.find(msg.job_id, sender)
            if found is not None:
                seat, fence = found
                self._release(seat.worker_id, msg.job_id)
                if fence:
                    self.background(self._cancel(msg.job_id, fence), name="cancel")
            return
        if msg.neutral:
            ended = Ended.CANCELLED if msg.ok else Ended.REFUSED
        else:
            ended = Ended.COMPLETED if msg.ok else Ended.FAILED
        self._release(msg.worker_id, msg.job_id, ended)

    # ---- breakers

    @on(ShowBreakers)
    def breakers(self, msg: ShowBreakers, sender: Address) -> BreakerStates:
        return self._shown.states(self.loop.time())

    @on(SetBreaker)
    async def set_breaker(self, msg: SetBreaker, sender: Address) -> BreakerStates:
        """
        Raises:
            BadRequest: there is no such mode, or the worker has no breaker.
            Overloaded: too many are set.
            Unavailable: it is set, but could not be written down.
        """
        now = self.loop.time()
        states = self._shown.set(msg, now)
        for state in states.breakers:
            log.warning(
                "breaker set", worker_id=state.worker_id, model=state.model_ref, mode=state.mode
            )
        self._serve_all()
        await self._kept.keep(states.breakers)
        return states

    def _refuse_shut(self, model_ref: str, now: float) -> None:
        until = self._placement.shut_until(model_ref, now)
        if until is not None:
            raise Unavailable(
                f"all workers of {model_ref} are left alone, since most of their answers failed "
                "or an operator wants it so; try again later",
                retry_after_s=min(60.0, max(0.1, until - now)),
            )

    # ---- waiting

    async def _wait(self, msg: Place, now: float) -> Seat:
        call: asyncio.Future[Seat] = self.loop.create_future()
        waiter = Waiter(
            job_id=msg.job_id,
            tenant_id=msg.tenant_id,
            model_ref=msg.model_ref,
            avoid=msg.avoid,
            since=now,
            deadline=now + msg.deadline_s,
            call=call,
            key=f"{msg.job_id} {msg.claim}",
            slo=msg.slo,
        )
        try:
            self._room.push(waiter)
        except QueueFull:
            self._refused.inc()
            raise Overloaded(
                f"all workers of {msg.model_ref} are busy and {len(self._room)} requests wait; "
                "try again",
                retry_after_s=1.0,
            ) from None
        except ValueError:
            raise Conflict(f"job {msg.job_id} waits for a worker already") from None
        try:
            seat = await call
        except BaseException:
            self._room.remove(waiter.key)
            if call.done() and not call.cancelled() and call.exception() is None:
                self._release(call.result().worker_id, msg.job_id)  # granted as it left
            raise
        metrics.queue_wait_seconds.observe(self.loop.time() - now)
        return seat

    def _serve_all(self) -> None:
        """Give free seats to those who wait."""
        now = self.loop.time()
        placement, room = self._placement, self._room

        def choose(model_ref: str, avoid: tuple[str, ...]) -> Seat | None:
            return placement.choose(model_ref, avoid, now, room.waited(model_ref, now))

        for waiter, seat in room.serve_all(choose):
            if not waiter.call.done():
                placement.take(seat, waiter.job_id, now, waiter.deadline, waiter.model_ref)
                waiter.call.set_result(seat)

    def _release(self, worker_id: str, job_id: str, ended: Ended = Ended.CANCELLED) -> None:
        if self._placement.release(worker_id, job_id, self.loop.time(), ended) and self._room:
            self._serve_all()

    def _see(self, fleet: Fleet) -> None:
        self._placement.see(fleet, self.loop.time())
        if self._room:
            self._serve_all()

    async def _sweep(self) -> None:
        placement, room = self._placement, self._room
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            if late := placement.expire(now):
                log.warning("jobs were never reported finished", **logs.few("jobs", late))
            self._queue_used.set(len(room))
            self._shown.publish()
            if not room:
                continue
            for waiter, why in room.sweep(now, self._open):
                if not waiter.call.done():
                    waiter.call.set_exception(_sorry(waiter, why))
            self._serve_all()

    def _open(self, model_ref: str) -> bool:
        """Is there a worker that may be given something, now or when it has room?"""
        placement = self._placement
        return (
            placement.serves(model_ref)
            and placement.shut_until(model_ref, self.loop.time()) is None
        )

    async def _reserve(self, reserve: Reserve) -> Reserved:
        timeout = min(RESERVE_S, reserve.deadline_s)
        reserved: Reserved = await self.ask(self.needs["reservation"], reserve, timeout=timeout)
        return reserved

    # ---- undoing

    async def _undo(self, reserve: Reserve) -> None:
        """A first Reserve is idempotent: asked again it says under which fence the job is, if it
        is still this attempt's, and that is settled. A later one would take the job from whoever
        runs it. Given up silently when reservation is away; then the lease runs out."""
        try:
            address = await self.tree.wait(RESERVATION, RESERVE_S)
            reserved = await self.ask(address, reserve, timeout=RESERVE_S)
        except TetherError:
            return
        if not reserved.known:
            await self._cancel(reserved.job_id, reserved.fence)

    async def _cancel(self, job_id: str, fence: int) -> None:
        await self._settler.settle(
            Settle(job_id=job_id, fence=fence, outcome=Outcome.CANCELLED, usage=Usage())
        )


def _reserve(msg: Place, worker_id: str, worker_address: str) -> Reserve:
    return Reserve(
        job_id=msg.job_id,
        tenant_id=msg.tenant_id,
        retry_token=msg.retry_token,
        fingerprint=msg.fingerprint,
        model_ref=msg.model_ref,
        worker_id=worker_id,
        worker_address=worker_address,
        deadline_s=msg.deadline_s,
        attempt=msg.attempt,
        claim=msg.claim,
        held=msg.held,
        lost=msg.lost,
    )


def _placed(reserved: Reserved) -> Placed:
    return Placed(
        job_id=reserved.job_id,
        worker_id=reserved.worker_id,
        worker_address=reserved.worker_address,
        fence=reserved.fence,
        known=reserved.known,
        claim=reserved.claim,
    )


def _sorry(waiter: Waiter[asyncio.Future[Seat]], why: Gone) -> TetherError:
    if why is Gone.UNSERVED:
        return Unavailable(
            f"no worker for {waiter.model_ref} is up; try again later", retry_after_s=5.0
        )
    return DeadlineExceeded(
        f"no worker of {waiter.model_ref} became free before the request's deadline"
    )
