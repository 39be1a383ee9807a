"""The actor between front doors and the network: authenticates, admits, keeps sessions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar

import msgspec

from actors.follower import Follower
from actors.gateway.completions import Completions
from actors.gateway.flight import Flight
from actors.gateway.keyring import Caller, Keyring
from actors.gateway.options import GatewayOptions
from actors.runtime import Address, on
from actors.settler import Settler
from supervision import Supervised
from tether.contracts import (
    Catalog,
    ChatInput,
    Chunk,
    Completed,
    Finished,
    Fleet,
    Infer,
    ListModels,
    Outcome,
    Place,
    Placed,
    Readiness,
    Ready,
    Settle,
    TextInput,
    WatchCatalog,
    WatchFleet,
)
from tether.core.admission import Admission
from tether.core.catalog import Index
from tether.core.journal import Reader
from tether.core.sampling import seeded, validated
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
SETTLES_AT_ONCE = 128
FINISHED_S = 0.002
MAX_FINISHED = 64
SECOND_S = 2.0  # after a worker should have settled a cancelled run
MAX_TOKEN_LENGTH = 255
_CHARACTERS_A_TOKEN = 4  # a guess for the token limit, corrected when the answer is there


class Gateway(Supervised):
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
        self._flights: set[Flight] = set()
        self._admission = Admission(options.tenants)
        self._completions = Completions(options.completions, options.remember_s)
        self._settler = Settler(self, "gateway")
        self._second: deque[tuple[float, Settle]] = deque(maxlen=options.completions)
        self._watched: set[str] = set()
        self._finished: list[Finished] = []
        self._finished_timer: asyncio.TimerHandle | None = None
        self._index = Index(Catalog(version=0, models=()))
        self._ready: tuple[str, ...] = ()
        self._alive: frozenset[str] = frozenset()
        self._workers: frozenset[str] = frozenset()
        self._draining = False
        self._ended: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._tokens_in = 0
        self._tokens_out = 0
        self._bind_metrics()
        await self._keyring.open()
        self.background(self._keyring.watch(), name="keys")
        catalog = Follower(self, "control/registry", WatchCatalog(), self._see_catalog)
        fleet = Follower(self, "control/roster", WatchFleet(), self._see_fleet)
        self.background(catalog.run(), name="catalog")
        self.background(fleet.run(), name="fleet")
        await self.tree.wait("control/scheduler", START_S)
        await asyncio.wait_for(catalog.first.wait(), START_S)
        self.background(self._sweep(), name="sweep")

    async def stop(self, deadline_s: float) -> None:
        """Streams are broken off as `Draining` right away, and their workers keep them: a front
        door takes them up again through the gateway that follows. So a restart of the control
        chain doesn't wait for the slowest stream; at the end of a node the doors, which stop
        first, have let all streams finish."""
        self._draining = True
        self._publish()
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
        flight = self._join(msg, caller) or self._take_off(msg, caller, now)
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
        caller = self._keyring.known(msg.credential, self.loop.time())
        if caller is None:
            await self._keyring.find(msg.credential, self.loop)
        return self._index.catalog

    @on(Readiness)
    def readiness(self, msg: Readiness, sender: Address) -> Ready:
        """Which models of the catalog some living worker has answered for."""
        return Ready(models=() if self._draining else self._ready)

    def _join(self, msg: Infer, caller: Caller) -> Flight | None:
        session = self._sessions.find((caller.tenant_id, msg.retry_token), msg.fingerprint)
        return session if isinstance(session, Flight) else None

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
        card = self._index.resolve(msg.model_ref)
        sampling = validated(msg.sampling, card.context)
        sampling = seeded(sampling, caller.tenant_id, msg.retry_token)
        characters = _characters(msg.input)
        tokens = sampling.max_tokens + characters // _CHARACTERS_A_TOKEN
        self._admission.admit(
            caller.tenant_id, caller.limits, tokens, now, resumed=msg.from_seq > 0
        )
        flight = Flight(
            self,
            msg,
            tenant_id=caller.tenant_id,
            card=card,
            sampling=sampling,
            now=now,
            deadline_s=min(msg.deadline_s, self._options.max_deadline_s),
            attempts=self._options.attempts,
        )
        flight.charged = tokens
        try:
            self._sessions.open(flight, characters)
        except TetherError:
            self._admission.leave(caller.tenant_id, tokens, now)
            self._refused.inc()
            raise
        self._flights.add(flight)
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

    def scheduler(self) -> Any:
        """
        Raises:
            Draining: it doesn't run.
        """
        address = self.tree.address("control/scheduler")
        if address is None:
            raise Draining("the scheduler is gone, and this gateway restarts after it")
        return address

    async def place(self, place: Place, timeout: float) -> Placed:
        """Ask the scheduler. Raises what it says, or `Draining` when it is gone."""
        scheduler = self.scheduler()
        if self._finished:
            self._tell_finished()
        placed: Placed = await self.ask(scheduler, place, timeout)
        return placed

    def placed(self, worker_address: str) -> None:
        """Hear of that worker's end."""
        if worker_address not in self._watched:
            self._watched.add(worker_address)
            self.watch(Address.parse(worker_address), lambda: self._worker_lost(worker_address))

    def released(self, job_id: str, worker_id: str, *, ok: bool) -> None:
        """Tell the scheduler that a slot is free: at once if there is nothing else to do, else
        with the next `Place`, or after a moment. That is one write less a request."""
        self._finished.append(Finished(job_id=job_id, worker_id=worker_id, ok=ok))
        if not self._flights or len(self._finished) >= MAX_FINISHED:
            self._tell_finished()
        elif self._finished_timer is None:
            self._finished_timer = self.loop.call_later(FINISHED_S, self._tell_finished)

    def _tell_finished(self) -> None:
        if self._finished_timer is not None:
            self._finished_timer.cancel()
            self._finished_timer = None
        finished, self._finished = self._finished, []
        with suppress(TetherError):  # it is away, and comes back with empty seats
            scheduler = self.scheduler()
            for one in finished:
                self.tell(scheduler, one)

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
        usage = flight.journal.usage
        used = usage.prompt_tokens + usage.completion_tokens
        if outcome is not Outcome.COMPLETED:
            used = len(flight.journal.prompt_ids) + flight.journal.tokens
        self._admission.leave(flight.tenant_id, flight.charged - used, now)
        self._ended[outcome] += 1
        if flight.first_at is not None:
            self._first_token.observe(flight.first_at - flight.since)
        settle = flight.settle()
        if outcome is Outcome.COMPLETED:
            self._sessions.grew(flight)
            self._sessions.finish(flight, now, keep=flight.explicit)
            self._tokens_in += usage.prompt_tokens
            self._tokens_out += usage.completion_tokens
            if settle is not None:
                self._completions.add(flight.worker_address, settle, now)
        else:
            self._sessions.drop(flight)
            if settle is None:
                pass
            elif outcome is Outcome.CANCELLED and flight.streaming:
                # The worker settles with what it computed, unless it never began or dies now.
                self._second.append((now + SECOND_S, settle))
            else:
                self._settle(settle)
        if flight.worker_id:
            fault = isinstance(flight.error, TetherError) and flight.error.retryable
            self.released(flight.job_id, flight.worker_id, ok=not fault)

    def _settle(self, settle: Settle) -> None:
        try:
            self.background(self._settler.settle(settle), name="settle")
        except TetherError:
            log.warning("no room to settle; the lease will run out", job_id=settle.job_id)

    def _worker_lost(self, worker_address: str) -> None:
        self._watched.discard(worker_address)
        taken = self._completions.take(worker_address)
        if taken:
            log.info("settles for a worker that is gone", worker=worker_address, jobs=len(taken))
            self.background(self._settle_all(taken), name="settle")

    async def _settle_all(self, settles: list[Settle]) -> None:
        for first in range(0, len(settles), SETTLES_AT_ONCE):
            await asyncio.gather(
                *map(self._settler.settle, settles[first : first + SETTLES_AT_ONCE])
            )

    # ---- the surroundings

    def _see_catalog(self, catalog: Catalog) -> None:
        self._index = Index(catalog)
        self._fit()

    def _see_fleet(self, fleet: Fleet) -> None:
        self._alive = frozenset(
            model for worker in fleet.workers if not worker.draining for model in worker.models
        )
        self._fit()
        workers = frozenset(worker.address for worker in fleet.workers)
        silent = self._workers - workers
        self._workers = workers
        if silent:
            for flight in list(self._flights):
                if flight.worker_address in silent:
                    flight.desert()

    def _fit(self) -> None:
        catalog = self._index.catalog
        self._ready = tuple(card.ref for card in catalog.models if card.ref in self._alive)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            grace = self._options.grace_s
            for flight in list(self._flights):
                if now > flight.deadline + OVERTIME_S:
                    flight.fail(DeadlineExceeded("no complete answer before the deadline"))
                elif flight.left_at is not None and now - flight.left_at >= grace:
                    flight.fail(Cancelled("the client did not come back"))
            self._sessions.sweep(now)
            self._completions.sweep(now)
            due = [settle for at, settle in self._second if at <= now]
            if due:
                self._second = deque(
                    (one for one in self._second if one[0] > now), self._second.maxlen
                )
                self.background(self._settle_all(due), name="settle")
            self._publish()
            self._used_sessions.set(len(self._sessions))
            self._used_tokens.set(self._sessions.tokens)
            self._used_characters.set(self._sessions.characters)
            self._used_completions.set(len(self._completions))
            self._used_keys.set(len(self._keyring))
            self._used_tenants.set(len(self._admission))

    def _publish(self) -> None:
        """What was counted since the last time; a counter's lock a request would cost more."""
        for outcome, count in self._ended.items():
            if count:
                self._outcomes[outcome].inc(count)
                self._ended[outcome] = 0
        if self._tokens_in or self._tokens_out:
            self._prompt_tokens.inc(self._tokens_in)
            self._output_tokens.inc(self._tokens_out)
            self._tokens_in = self._tokens_out = 0

    def _bind_metrics(self) -> None:
        self._outcomes = {outcome: metrics.requests.labels(outcome.value) for outcome in Outcome}
        self._first_token = metrics.first_token_seconds
        self._prompt_tokens = metrics.request_tokens.labels("prompt")
        self._output_tokens = metrics.request_tokens.labels("output")
        self._refused = metrics.bound_refused.labels("gateway_sessions")
        self._used_sessions = metrics.bound_used.labels("gateway_sessions")
        self._used_tokens = metrics.bound_used.labels("gateway_tokens")
        self._used_characters = metrics.bound_used.labels("gateway_characters")
        self._used_completions = metrics.bound_used.labels("gateway_completions")
        self._used_keys = metrics.bound_used.labels("gateway_keys")
        self._used_tenants = metrics.bound_used.labels("gateway_tenants")


def _characters(input: ChatInput | TextInput) -> int:
    if isinstance(input, TextInput):
        return len(input.prompt)
    return sum(len(message.content) for message in input.messages)
