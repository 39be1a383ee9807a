"""The actor between front doors and the network: authenticates, admits, keeps sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import msgspec

from actors.gateway.closing import Closing
from actors.gateway.flight import Flight
from actors.gateway.governing import Governs
from actors.gateway.keyring import Caller, Keyring
from actors.gateway.options import GatewayOptions
from actors.gateway.releases import SCHEDULER, Releases
from actors.gateway.shown import Recent, ShowsSessions
from actors.gateway.surroundings import Surroundings
from actors.gateway.tally import Tally
from actors.gateway.terms import Concurrency, terms
from actors.runtime import Address, on
from supervision import Supervised
from supervision.policies import Budget
from tether.contracts import (
    Catalog,
    Chunk,
    Completed,
    Finished,
    Infer,
    ListModels,
    ModelCard,
    Outcome,
    Place,
    Placed,
    Readiness,
    Ready,
    Usage,
)
from tether.core.admission import Admission
from tether.core.journal import Reader
from tether.core.session import Sessions
from tether.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    Draining,
    TetherError,
)
from tether.telemetry import logs, metrics

log = logs.get(__name__)

TICK_S = 0.25
OVERTIME_S = 0.5  # the worker knows the deadline too, and settles by it
START_S = 15.0
MAX_TOKEN_LENGTH = 255


class Gateway(ShowsSessions, Governs, Supervised):
    """Answers `Infer`, `ListModels` and `Readiness`. Finds the scheduler by the tree, since a
    partition has no needs of its own."""

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
        )
        self._sessions = Sessions(options.sessions)
        self._flights = set()
        self._recent = Recent()
        self._admission = Admission(options.tenants)
        self._concurrency = Concurrency()
        self._budget = Budget(options.retries)
        self._closing = Closing(self, options.completions, options.remember_s)
        self._releases = Releases(self)
        self._tally = Tally()
        self._surroundings = Surroundings(self)
        self._watched: set[str] = set()
        self._draining = False
        await self._keyring.open()
        self.background(self._keyring.watch(), name="keys")
        catalog = self._surroundings.follow()
        await self.tree.wait(SCHEDULER, START_S)
        await asyncio.wait_for(catalog.first.wait(), START_S)
        self.background(self._sweep(), name="sweep")

    async def stop(self, deadline_s: float) -> None:
        """Streams are broken off as `Draining` right away, and their workers keep them: a front
        door takes them up again through the gateway that follows. So a restart of the control
        chain doesn't wait for the slowest stream; at the end of a node the doors, which stop
        first, have let all streams finish."""
        self._draining = True
        self._tally.publish()
        await self._keyring.close()

    # ---- requests

    @on(Infer)
    async def infer(self, msg: Infer, sender: Address) -> AsyncIterator[Chunk | Completed]:
        """
        Raises:
            Unauthenticated, ModelNotFound, BadRequest: the request is at fault.
            RateLimited: the tenant's limits.
            Conflict, AnswerGone: the retry token.
            Unavailable, WorkerLost, DeadlineExceeded: it couldn't be answered.
        """
        now = self.loop.time()
        caller = self._keyring.known(msg.credential, now)
        if caller is None:
            caller = await self._keyring.find(msg.credential, self.loop)
        flight = self._join(msg, caller, now) or self._take_off(msg, caller, now)
        journal = flight.journal
        from_seq = msg.from_seq
        flight.listeners += 1
        flight.left_at = None
        why = ""
        try:
            while journal.tokens < from_seq and flight.outcome is None:
                await flight.more()
            if flight.error is not None and journal.tokens < from_seq:
                raise flight.error
            reader = Reader(journal, from_seq, whole=not msg.stream)
            while True:
                item = reader.next()
                if item is None:
                    if flight.error is not None:
                        raise flight.error
                    await flight.more()
                    continue
                yield item
                if type(item) is Completed:
                    return
        except asyncio.CancelledError as cancelled:
            why = str(cancelled.args[0]) if cancelled.args else "cancelled"
            raise
        except GeneratorExit:
            why = "cancelled"
            raise
        finally:
            flight.listeners -= 1
            if not flight.listeners and flight.outcome is None:
                self._deserted(flight, why)

    @on(ListModels)
    async def models(self, msg: ListModels, sender: Address) -> Catalog:
        """
        Raises:
            Unauthenticated: no such key.
        """
        caller = await self._keyring.caller(msg.credential, self.loop)
        return self._surroundings.index.of_tenant(caller.tenant_id)

    @on(Readiness)
    def readiness(self, msg: Readiness, sender: Address) -> Ready:
        """Which models of the catalog some living worker has answered for."""
        return Ready(models=() if self._draining else self._surroundings.ready)

    def _join(self, msg: Infer, caller: Caller, now: float) -> Flight | None:
        session = self._sessions.find((caller.tenant_id, msg.retry_token), msg.fingerprint)
        if not isinstance(session, Flight):
            return None
        session.prolong(now + min(msg.deadline_s, self._options.max_deadline_s))
        return session

    def _take_off(self, msg: Infer, caller: Caller, now: float) -> Flight:
        """A new flight, counted and entered everywhere, or an error and nothing of it."""
        if self._draining:
            raise Draining("this gateway is stopping; send the request again")
        if not 0 < len(msg.retry_token) <= MAX_TOKEN_LENGTH or "\0" in msg.retry_token:
            raise BadRequest(
                f"an idempotency key has 1 to {MAX_TOKEN_LENGTH} characters, none of them NUL",
                param="retry_token",
            )
        if not msg.deadline_s > 0:
            raise DeadlineExceeded("the request came after its deadline")
        tenant_id = caller.tenant_id
        near = self._surroundings
        card = near.index.resolve(msg.model_ref, tenant_id, msg.retry_token, near.alive)
        agreed = terms(msg, card, tenant_id, near.abilities)
        tokens, resumed = agreed.tokens, msg.from_seq > 0
        self._admission.admit(tenant_id, caller.limits, tokens, now, resumed=resumed)
        flight = Flight(
            self,
            msg,
            tenant_id=tenant_id,
            card=card,
            sampling=agreed.sampling,
            now=now,
            deadline_s=min(msg.deadline_s, self._options.max_deadline_s),
            attempts=self._options.attempts,
            budget=self._budget,
        )
        flight.charged = tokens
        try:
            self._concurrency.enter(tenant_id, card, resumed=resumed)
        except TetherError:
            self._admission.leave(tenant_id, tokens, now)
            raise
        try:
            self._sessions.open(flight, agreed.characters)
        except TetherError:
            self._concurrency.leave(tenant_id, card)
            self._admission.leave(tenant_id, tokens, now)
            self._tally.refused.inc()
            raise
        self._flights.add(flight)
        self._budget.deposit(now)
        return flight

    def _deserted(self, flight: Flight, why: str) -> None:
        """Nobody listens any more."""
        if why == "stopping":
            return  # we go; the worker keeps the run, and another gateway takes it up
        if why == "peer_lost" and flight.explicit:
            flight.left_at = self.loop.time()
            try:
                self.background(self._carry(flight), name="carry")
            except TetherError:
                pass
            else:
                return
        flight.fail(Cancelled("the client left"))

    async def _carry(self, flight: Flight) -> None:
        """Moves a flight on while nobody listens; the sweep ends it if nobody comes back."""
        while flight.outcome is None and not flight.listeners:
            await flight.more()

    # ---- what a flight needs

    async def place(self, place: Place, timeout: float) -> Placed:
        """
        Raises:
            Draining: there is no scheduler.
            TetherError: what it says.
        """
        scheduler = self.tree.address(SCHEDULER)
        if scheduler is None:
            raise Draining("the scheduler is gone, and this gateway restarts after it")
        self._releases.flush()
        placed: Placed = await self.ask(scheduler, place, timeout)
        return placed

    def placed(self, worker_address: str) -> None:
        """Hear of that worker's end."""
        if worker_address not in self._watched:
            self._watched.add(worker_address)
            self.watch(Address.parse(worker_address), lambda: self._worker_lost(worker_address))

    def released(self, job_id: str, worker_id: str, *, ok: bool, neutral: bool = False) -> None:
        finished = Finished(job_id=job_id, worker_id=worker_id, ok=ok, neutral=neutral)
        self._releases.add(finished, urgent=not self._flights)

    def cold(self, worker_address: str, model_ref: str) -> bool:
        return self._surroundings.cold(worker_address, model_ref)

    def another(self, flight: Flight) -> ModelCard | None:
        near, tenant_id, infer = self._surroundings, flight.tenant_id, flight.infer
        try:
            card = near.index.resolve(infer.model_ref, tenant_id, infer.retry_token, near.alive)
            terms(infer, card, tenant_id, near.abilities)  # it may be able to do less
        except TetherError:
            return None
        if card.ref == flight.model_ref:
            return None
        self._concurrency.leave(tenant_id, flight.card)
        self._concurrency.enter(tenant_id, card, resumed=True)
        return card

    def grew(self, flight: Flight) -> None:
        self._sessions.grew(flight)

    def moved(self, flight: Flight, why: TetherError) -> None:
        metrics.request_resumes.labels(why.code).inc()
        log.info(
            "a request moves on",
            job_id=flight.job_id,
            from_worker=flight.worker_id,
            at_token=flight.journal.tokens,
            why=why.code,
        )

    def landed(self, flight: Flight) -> None:
        """A flight has its outcome: free what it held, and see that its job is closed."""
        now = self.loop.time()
        outcome = flight.outcome
        assert outcome is not None
        self._flights.discard(flight)
        self._recent.add(flight, now)
        journal = flight.journal
        completed = outcome is Outcome.COMPLETED
        usage = (
            journal.usage
            if completed
            else Usage(prompt_tokens=len(journal.prompt_ids), completion_tokens=journal.tokens)
        )
        used = usage.prompt_tokens + usage.completion_tokens
        self._admission.leave(flight.tenant_id, flight.charged - used, now)
        self._concurrency.leave(flight.tenant_id, flight.card)
        first_s = None if flight.first_at is None else flight.first_at - flight.since
        self._tally.ended(outcome, usage, first_s)
        settle = flight.settle()
        if completed:
            self._sessions.grew(flight)
            self._sessions.finish(flight, now, keep=flight.explicit)
        else:
            self._sessions.drop(flight)
        if settle is not None:
            if completed:
                self._closing.answered(flight.worker_address, settle, now)
            elif outcome is Outcome.CANCELLED and flight.streaming:
                self._closing.cancelled(settle, now)
            else:
                self._closing.ended(settle)
        if flight.worker_id:
            ok, neutral = flight.verdict(flight.error, now)
            self.released(flight.job_id, flight.worker_id, ok=ok, neutral=neutral)

    def _worker_lost(self, worker_address: str) -> None:
        self._watched.discard(worker_address)
        self._closing.worker_lost(worker_address)

    # ---- time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            grace = self._options.grace_s
            silent = self._surroundings.take_silent()
            for flight in list(self._flights):
                if now > flight.deadline + OVERTIME_S:
                    flight.fail(DeadlineExceeded("no complete answer before the deadline"))
                elif flight.left_at is not None and now - flight.left_at >= grace:
                    flight.fail(Cancelled("the client did not come back"))
                elif silent and flight.worker_address in silent:
                    flight.desert()
            self._sessions.sweep(now)
            self._closing.sweep(now)
            self._recent.publish()
            self._tally.publish()
            self._tally.bounds(self._sessions, len(self._keyring), len(self._admission))
            self._tally.retries(self._budget)
