"""The actor between front doors and the network: authenticates, admits, keeps sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import ClassVar

import msgspec

from actors.contracts import (
    Chunk,
    Completed,
    Finished,
    HeldJob,
    Infer,
    ModelCard,
    Outcome,
    Place,
    Placed,
)
from actors.core.answer_packing import AnswerPacking
from actors.core.journal import Reader
from actors.core.node_roles import Role
from actors.gateway.admission import ShareShort
from actors.gateway.catalog_answers import CatalogAnswers
from actors.gateway.fleet_view import FleetView
from actors.gateway.gateway_metrics import GatewayMetrics
from actors.gateway.idempotency import goes_on, joined, key_of
from actors.gateway.key_check import KeyCheck
from actors.gateway.keyring import Caller, Keyring
from actors.gateway.options import GatewayOptions
from actors.gateway.recent_requests import RecentRequests
from actors.gateway.registry_proxy import RegistryProxy
from actors.gateway.replays import Replays
from actors.gateway.request_admission import RequestAdmission
from actors.gateway.request_session import RequestSession
from actors.gateway.session import Sessions
from actors.gateway.session_listing import SessionListing
from actors.gateway.session_reading import Deserted
from actors.gateway.session_settlement import settled_by, used_of
from actors.gateway.session_sweep import GONE, sweep_session
from actors.gateway.settlement import Settlement
from actors.gateway.shared_limits import SharedLimits
from actors.gateway.slot_releases import SCHEDULER, SlotReleases
from actors.reservation.renewer import Renewer
from supervision.child import Supervised
from supervision.errors import Cancelled, DeadlineExceeded, Draining, TetherError, Unavailable
from supervision.runtime import Address, on
from supervision.runtime.cancel_cause import CancelCause

TICK_S = 0.25  # of the sweep: deadlines, clients that don't come back, silent workers
START_S = 15.0  # for scheduler and catalog, which may be starting as well


class Gateway(Supervised):
    """Answers `Infer`, `ListModels` and `Readiness`. A node may have several, each with a share of
    the tenants: partitions, which are handed no addresses at their start, so it finds the scheduler
    by the node's tree."""

    Options: ClassVar[type[msgspec.Struct]] = GatewayOptions
    max_handlers: ClassVar[int] = 32_768

    async def start(self, options: GatewayOptions) -> None:
        self._options = options
        self._keyring = Keyring(
            options.dsn,
            options.limits,
            bound=options.keys,
            present_s=options.key_s,
            absent_s=options.unknown_key_s,
            share=options.limit_share,
        )
        self._limits = SharedLimits(self, options)
        self._sessions = Sessions(options.sessions)
        self._running: dict[RequestSession, None] = {}  # a set in the order of adding
        self._recent = RecentRequests()
        self._settlement = Settlement(
            self,
            options.unsettled,
            options.remember_s,
            options.spool,
            answered=self._sessions.answered,
            packing=AnswerPacking(options.answers, "gateway"),
        )
        self._replays = Replays(self)
        self._slot_releases = SlotReleases(self)
        self._metrics = GatewayMetrics()
        self._fleet = FleetView(self)
        self._admission = RequestAdmission(
            self,
            options,
            sessions=self._sessions,
            fleet=self._fleet,
            metrics=self._metrics,
            tenants=self._limits.tenants,
        )
        self._watched: set[str] = set()
        self._draining = False
        self.serve(self._admission)
        self.serve(KeyCheck(self, self._keyring))
        self.serve(CatalogAnswers(self, self._keyring, self._fleet, lambda: self._draining))
        self.serve(RegistryProxy(self, self._keyring))
        self.serve(
            SessionListing(
                self,
                running=self._running,
                recent=self._recent,
                policies=self._admission.policies,
                fleet=self._fleet,
            )
        )
        await asyncio.gather(self._keyring.open(), self._limits.open())
        self.background(self._keyring.watch(), name="keys")
        catalog = self._fleet.follow()
        await self.tree.wait(SCHEDULER, START_S)
        await asyncio.wait_for(catalog.first.wait(), START_S)
        self.background(self._sweep(), name="sweep")
        heard = self._settlement.heard
        renewer = Renewer(self, "gateway", self._held_jobs, every_s=options.renew_s, heard=heard)
        self.background(renewer.run(), name="renew")

    async def stop(self, deadline_s: float) -> None:
        """Streams are broken off as `Draining` right away, and their workers keep them: a front
        door takes them up again through the gateway that follows. So a restart of the control
        chain doesn't wait for the slowest stream; at the end of a node the doors, which stop
        first, have let all streams finish."""
        self._draining = True
        self._metrics.publish()
        await self._settlement.stop()
        await asyncio.gather(self._keyring.close(), self._limits.close())

    def described(self) -> dict[str, object]:
        """See `Actor.described`."""
        return {
            "sessions": len(self._sessions),
            "running": len(self._running),
            "draining": self._draining,
            "models": " ".join(self._fleet.ready),
        }

    # ---- requests

    @on(Infer, of=Role.DOOR)
    async def infer(self, msg: Infer, sender: Address) -> AsyncIterator[Chunk | Completed]:
        """Streams the answer from `from_seq` on: of a session that is there, or a new one. Each of
        several readers has a `Reader` of the journal of its own; one of them moves the session on.

        Raises:
            Unauthenticated, ModelNotFound, BadRequest: the request is at fault.
            RateLimited: the tenant's limits.
            KeyReused, Conflict, IdempotencyConflict, AnswerGone: the retry token.
            Unavailable, WorkerLost, DeadlineExceeded: it couldn't be answered.
        """
        now = self.loop.time()
        caller = self._keyring.known(msg.credential, now)
        if caller is None:
            caller = await self._keyring.find(msg.credential, self.loop)
        try:
            session, beside = self._enter(msg, caller, now)
        except ShareShort as short:
            who = caller
            session, beside = await self._limits.granted(
                short, lambda now: self._enter(msg, who, now)
            )
        limits = self._admission.state_of(caller.tenant_id, now)
        journal, reading, step = session.journal, session.reading, session.step
        past, placement = session.past, session.placement
        from_seq, first, held = msg.from_seq, True, session.outcome is not None
        reading.enter()
        why: CancelCause | None = None
        try:
            while (
                journal.tokens < from_seq or past.unplaced(placement.assignment)
            ) and session.outcome is None:
                await reading.more(step)
            if session.error is not None and journal.tokens < from_seq:
                raise session.error.anew()
            reader = Reader(journal, from_seq, whole=not msg.stream)
            while True:
                item = reader.next()
                if item is None:
                    if session.error is not None:
                        raise session.error.anew()
                    await reading.more(step)
                    continue
                if first:
                    first, item = False, self._replays.marked(item, session, msg, held=held)
                if limits is not None:
                    item, limits = msgspec.structs.replace(item, limits=limits), None
                yield item
                if type(item) is Completed:
                    return
        except asyncio.CancelledError as cancelled:
            why = CancelCause.of(cancelled)
            raise
        except GeneratorExit:
            why = CancelCause.CANCELLED
            raise
        finally:
            if beside:
                self._admission.joined_leaves(caller.tenant_id, self.loop.time())
            left = reading.leave(why, explicit=session.explicit, now=self.loop.time())
            if session.outcome is None and left is not None:
                self._deserted(session, left)

    def _enter(self, msg: Infer, caller: Caller, now: float) -> tuple[RequestSession, bool]:
        """The session of a request, there already or new, and whether it was joined by one that
        counts beside the others.

        Raises:
            ShareShort: the store of limits must be asked first.
        """
        session = self._sessions.find(key_of(msg, caller.tenant_id), msg.fingerprint)
        if not isinstance(session, RequestSession) or not joined(msg, session.outcome):
            return self._open_session(msg, caller, now), False
        beside = self._admission.join(session, msg, caller, now)
        session.placement.prolong(now + min(msg.deadline_s, self._options.max_deadline_s))
        return session, beside

    def _open_session(self, msg: Infer, caller: Caller, now: float) -> RequestSession:
        """A new session, counted and entered everywhere, or an error and nothing of it."""
        if self._draining:
            raise Draining("this gateway is stopping; send the request again")
        self._settlement.check(len(self._running))
        session = self._admission.enter(msg, caller, now)
        self._running[session] = None
        return session

    def _deserted(self, session: RequestSession, left: Deserted) -> None:
        """Nobody listens any more."""
        if left is Deserted.STAYS:
            return
        if left is Deserted.WAITS:
            try:
                self.background(self._carry(session), name="carry")
            except TetherError:
                pass
            else:
                return
        if left is Deserted.ENDS:
            session.fail(Cancelled("the client left"))
        else:
            session.fail(Unavailable(GONE))

    async def _carry(self, session: RequestSession) -> None:
        """Moves a session on while nobody listens; the sweep ends it if nobody comes back."""
        while session.outcome is None and not session.reading.listeners:
            await session.reading.more(session.step)

    # ---- what a session needs (`session_host`)

    async def place(self, place: Place, timeout: float) -> Placed:
        """A worker for a request, by the scheduler's word.

        Raises:
            Draining: there is no scheduler.
            TetherError: what it says.
        """
        scheduler = self.tree.address(SCHEDULER)
        if scheduler is None:
            raise Draining("the scheduler is gone, and this gateway restarts after it")
        self._slot_releases.flush()
        placed: Placed = await self.ask(scheduler, place, timeout)
        return placed

    async def said_again(self, session: RequestSession) -> bool:
        return await self._replays.fill(session, self.loop.time())

    def placed(self, worker_address: str) -> None:
        """Hear of that worker's end."""
        if worker_address not in self._watched:
            self._watched.add(worker_address)
            self.watch(Address.parse(worker_address), lambda: self._worker_lost(worker_address))

    def released(self, job_id: str, worker_id: str, *, ok: bool, neutral: bool = False) -> None:
        finished = Finished(job_id=job_id, worker_id=worker_id, ok=ok, neutral=neutral)
        self._slot_releases.add(finished, urgent=not self._running)

    def cold(self, worker_address: str, model_ref: str) -> bool:
        return self._fleet.cold(worker_address, model_ref)

    def another(self, session: RequestSession) -> ModelCard | None:
        return self._admission.another(session)

    def grew(self, session: RequestSession) -> None:
        self._sessions.grew(session)

    def moved(self, session: RequestSession, why: TetherError) -> None:
        self._metrics.moved(session, why)

    def ended(self, session: RequestSession) -> None:
        """A session has its outcome: free what it held, and see that its job is closed."""
        now = self.loop.time()
        outcome = session.outcome
        assert outcome is not None
        self._running.pop(session, None)
        self._recent.add(session, now)
        usage = used_of(session.journal, outcome, session.past)
        self._replays.ended(session.error)
        self._admission.leave(session, usage, now)
        first_s = None if session.first_at is None else session.first_at - session.since
        self._metrics.ended(outcome, usage, first_s)
        settle = session.settle()
        if outcome is Outcome.COMPLETED:
            self._sessions.grew(session)
            self._sessions.finish(session, now, keep=session.explicit)
        else:
            keep = goes_on(session.explicit, session.journal.tokens, session.error)
            self._sessions.finish(session, now, keep=keep)
        if settle is not None:
            by = settled_by(
                outcome,
                streaming=session.streaming,
                attached=session.attached,
                late=isinstance(session.error, DeadlineExceeded),
            )
            key = session.key if session.placement.job.keep else None
            self._settlement.close(settle, by, session.worker_address, now, key)
        if session.worker_id:
            ok, neutral = session.verdict(now)
            self.released(session.job_id, session.worker_id, ok=ok, neutral=neutral)

    def _held_jobs(self) -> Iterator[HeldJob]:
        """What was placed and has no end yet: its worker may not have heard of it."""
        for session in self._running:
            held = session.held_job()
            if held is not None:
                yield held

    def _worker_lost(self, worker_address: str) -> None:
        self._watched.discard(worker_address)
        self._settlement.worker_lost(worker_address)

    # ---- time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            silent = self._fleet.take_silent()
            for session in list(self._running):
                sweep_session(session, silent, now, grace_s=self._options.grace_s)
            self._sessions.sweep(now)
            self._settlement.sweep(now)
            self._recent.publish()
            self._metrics.publish()
            self._admission.sweep(now)
            self._limits.publish()
            self._admission.publish(len(self._keyring), self._keyring.questions)
