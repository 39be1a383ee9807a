"""The actor that places requests on workers and has them reserved."""

from __future__ import annotations

import asyncio
import random
from typing import Any, ClassVar

import msgspec

from actors.contracts import (
    BreakerStates,
    Finished,
    Fleet,
    JobState,
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
from actors.errors import IdempotencyConflict
from actors.reservation.settler import RESERVATION, Settler
from actors.scheduler import metrics
from actors.scheduler.breaker_listing import BreakerListing
from actors.scheduler.breaker_overrides import BreakerOverrides
from actors.scheduler.fairqueue import QueueFull
from actors.scheduler.placement import Placement
from actors.scheduler.seat import Seat
from actors.scheduler.waiting import Gone, Waiter, WaitingRoom
from supervision.child import Supervised
from supervision.errors import DeadlineExceeded, Overloaded, TetherError, Unavailable
from supervision.follower import Follower
from supervision.policies import Ended
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR, OWN
from supervision.spec import ChildSpec
from supervision.telemetry import bounds, logs

log = logs.get(__name__)

TICK_S = 0.1
UNDO_S = 10.0
FLEET_S = 10.0


class SchedulerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`queue` requests of all models may wait for a worker; a request whose model has no worker
    at all waits `patience_s`, since workers restart. Reservation has `reserve_s` to answer; after
    that the gateway hears that it didn't, and asks again while its request has time.

    Raises:
        ValueError: a bound is out of its range.
    """

    region: str = "local"
    queue: int = 4096
    patience_s: float = 15.0
    reserve_s: float = 10.0

    def __post_init__(self) -> None:
        if self.queue < 1 or not self.patience_s >= 0 or not self.reserve_s > 0:
            raise ValueError(
                "queue must be at least 1, patience_s not negative, and reserve_s above 0"
            )


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
        self._reserve_s = options.reserve_s
        self._placement = Placement(options.region, random.random)
        self._placement.node = self.address.node
        self._shown = BreakerListing(self._placement.breakers, self._placement)
        self._kept = BreakerOverrides(self, self._placement.breakers)
        self._room: WaitingRoom[asyncio.Future[Seat]] = WaitingRoom(
            options.queue, options.patience_s
        )
        self._settler = Settler(self, "scheduler")
        self._refused = bounds.refused.labels("scheduler_queue")
        self._queue_used = bounds.used.labels("scheduler_queue")
        await self._kept.recall()
        fleet = Follower(self, "control/roster", WatchFleet(), self._see)
        self.background(fleet.run(), name="fleet")
        await asyncio.wait_for(fleet.first.wait(), FLEET_S)
        self.background(self._sweep(), name="sweep")

    @on(Place, of=OWN)
    async def place(self, msg: Place, sender: Address) -> Placed:
        """
        Raises:
            Overloaded: too many wait.
            Unavailable: no worker for this model came within the patience, or the breakers of all
                of them are open.
            NoAnswer: reservation hangs; what was asked of it may be done all the same.
            DeadlineExceeded: it waited until its deadline.
        """
        now = self.loop.time()
        placement = self._placement
        job_id, model_ref = msg.job.job_id, msg.job.model_ref
        first = msg.ownership.attempt == 1
        seat = None
        if not self._room.waits_for(model_ref):
            seat = placement.choose(model_ref, msg.avoid, now)
        if seat is not None:
            placement.take(seat, job_id, now, now + msg.deadline_s, model_ref)
        else:
            if msg.is_resume:
                found = await self._reserve(_reserve(msg, "", ""))
                if found.assignment.state is not JobState.FREE:
                    return Placed(assignment=found.assignment)
            if first:
                self._refuse_shut(model_ref, now)
            seat = await self._wait(msg, now)
        reserve = _reserve(msg, seat.worker_id, seat.address)
        try:
            reserved = await self._reserve(reserve)
        except BaseException as error:
            self._release(seat.worker_id, job_id)
            if isinstance(error, asyncio.CancelledError) and first:
                # Nobody wants it any more, and whether it was reserved isn't known.
                self.background(self._undo(reserve), name="undo")
            # Otherwise the front door asks again, perhaps by another gateway, and adopts the job:
            # it must not be cancelled under its hands. If it doesn't, the lease runs out.
            raise
        given = reserved.assignment
        if given.state is not JobState.NEW or given.worker_address != seat.address:
            # An older reservation stands: this seat isn't needed.
            self._release(seat.worker_id, job_id)
        else:
            placement.confirm(seat, job_id, given.fencing_token, sender, given.job_id)
        return Placed(assignment=given)

    @on(Finished, of=OWN)
    def finished(self, msg: Finished, sender: Address) -> None:
        """A slot is free again. Without a worker: its gateway doesn't know where the job went,
        and does not want it any more. That may come late from a gateway that is gone, when the
        one after it has the job: then it means nothing."""
        if not msg.worker_id:
            found = self._placement.find(msg.job_id, sender)
            if found is not None:
                seat, job_id, fencing_token = found
                self._release(seat.worker_id, job_id)
                if fencing_token:
                    self.background(self._cancel(job_id, fencing_token), name="cancel")
            return
        if msg.neutral:
            ended = Ended.CANCELLED if msg.ok else Ended.REFUSED
        else:
            ended = Ended.COMPLETED if msg.ok else Ended.FAILED
        self._release(msg.worker_id, msg.job_id, ended)

    # ---- breakers

    @on(ShowBreakers, of=OPERATOR)
    def breakers(self, msg: ShowBreakers, sender: Address) -> BreakerStates:
        return self._shown.states(self.loop.time())

    @on(SetBreaker, of=OPERATOR)
    async def set_breaker(self, msg: SetBreaker, sender: Address) -> BreakerStates:
        """
        Raises:
            BadRequest: there is no such mode, or the worker has no breaker.
            Overloaded: too many are set.
            Unavailable: it is set, but could not be written down.
        """
        now = self.loop.time()
        states = self._shown.set(msg, now)
        log.warning("breaker set", worker_id=msg.worker_id, model=msg.model_ref, mode=msg.mode)
        self._serve_all()
        await self._kept.keep(msg)
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
        job = msg.job
        waiter = Waiter(
            job_id=job.job_id,
            tenant_id=job.tenant_id,
            model_ref=job.model_ref,
            avoid=msg.avoid,
            since=now,
            deadline=now + msg.deadline_s,
            call=call,
            key=f"{job.job_id} {msg.ownership.claim_token}",
            slo=msg.slo,
        )
        try:
            self._room.push(waiter)
        except QueueFull:
            self._refused.inc()
            raise Overloaded(
                f"all workers of {job.model_ref} are busy and {len(self._room)} requests wait; "
                "try again",
                retry_after_s=1.0,
            ) from None
        except ValueError:
            raise IdempotencyConflict(f"job {job.job_id} waits for a worker already") from None
        try:
            seat = await call
        except BaseException:
            self._room.remove(waiter.key)
            if call.done() and not call.cancelled() and call.exception() is None:
                self._release(call.result().worker_id, job.job_id)  # granted as it left
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
        timeout = min(self._reserve_s, reserve.deadline_s)
        reserved: Reserved = await self.ask(self.needs["reservation"], reserve, timeout=timeout)
        return reserved

    # ---- undoing

    async def _undo(self, reserve: Reserve) -> None:
        """A first Reserve is idempotent: asked again it says under which fencing token the job is,
        if it is still this attempt's, and that is settled. A later one would take the job from
        whoever runs it. Given up silently when reservation is away; then the lease runs out."""
        try:
            address = await self.tree.wait(RESERVATION, UNDO_S)
            reserved = await self.ask(address, reserve, timeout=UNDO_S)
        except TetherError:
            return
        given = reserved.assignment
        if given.state is JobState.NEW:
            await self._cancel(given.job_id, given.fencing_token)

    async def _cancel(self, job_id: str, fencing_token: int) -> None:
        await self._settler.settle(
            Settle(
                job_id=job_id,
                fencing_token=fencing_token,
                outcome=Outcome.CANCELLED,
                usage=Usage(),
            )
        )


def _reserve(msg: Place, worker_id: str, worker_address: str) -> Reserve:
    return Reserve(
        job=msg.job,
        worker_id=worker_id,
        worker_address=worker_address,
        deadline_s=msg.deadline_s,
        ownership=msg.ownership,
        most=msg.most,
    )


def _sorry(waiter: Waiter[asyncio.Future[Seat]], why: Gone) -> TetherError:
    if why is Gone.UNSERVED:
        return Unavailable(
            f"no worker for {waiter.model_ref} is up; try again later", retry_after_s=5.0
        )
    return DeadlineExceeded(
        f"no worker of {waiter.model_ref} became free before the request's deadline"
    )
