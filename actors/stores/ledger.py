"""Jobs, leases and usage, written in rounds: what queued while one round ran is the next one.

A `Ledger` takes any number of reserves and settles at once and keeps at most two statements in
flight, each on a connection of its own (a *lane*). A lost connection is made anew and its round
is sent again, which is safe because both operations are idempotent; a caller waits for that
until his patience ends. See docs/adr/0004-settlement.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable
from typing import Any, TypeVar

import asyncpg

from actors.contracts import Renew, Renewed, Reserve, Reserved, Settle, Settled
from actors.core.price import PriceBook
from actors.stores import metrics
from actors.stores.budget_desk import BudgetDesk
from actors.stores.budget_lane import BudgetLane
from actors.stores.budgeted_tenants import BudgetedTenants
from actors.stores.database import AWAY, LOST, answers, connect, full, migrate
from actors.stores.jobs import Desk, Told
from actors.stores.ledger_options import LedgerOptions
from actors.stores.message_check import check
from actors.stores.queries import sql
from actors.stores.renewals import Renewals
from actors.stores.shared_desk import SharedDesk
from actors.stores.upkeep import MONTHS_AHEAD, Upkeep
from actors.stores.waiting_answers import WaitingAnswers
from actors.stores.waiting_request import WaitingRequest, rounds_of
from supervision.errors import Draining, Internal, Overloaded, TetherError, Unavailable
from supervision.policies import Retry, Stack
from supervision.policies.async_driver import Attempt, run
from supervision.telemetry import bounds, logs
from supervision.telemetry.bounded_log import BoundedLog

__all__ = ["Ledger", "LedgerOptions"]

log = logs.get(__name__)
heard = BoundedLog(__name__)

D = TypeVar("D", bound=Desk)
_LANES = 2
_FULL_S = 0.25  # between two attempts to settle on a full disk


_Taken = list[tuple[object, WaitingRequest]]


class Ledger:
    """Opened on a loop, used from that loop.

    Args:
        dsn: of the database; `open` migrates it.
        prices: what jobs cost; whoever has made it keeps it up to date.
    """

    def __init__(
        self, dsn: str, options: LedgerOptions | None = None, prices: PriceBook | None = None
    ) -> None:
        self._dsn = dsn
        self._prices = prices or PriceBook()
        self._options = options or LedgerOptions()
        self._rounds = rounds_of(self._options, _LANES)
        self._answers = WaitingAnswers(self._options.answers)
        self._budgeted = BudgetedTenants()
        self._within = BudgetLane(self._options, lambda: self._desk(BudgetDesk))
        self._shared = SharedDesk(self._desk)
        self._renewals = Renewals(self._shared)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._kicked = False
        self._draining = False
        self._nothing_left = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reason = "it was never reached"
        self._away = Stack(Retry(AWAY, random.random, budget=None))
        self._used = bounds.used.labels("reservation_waiting")
        self._refused = bounds.refused.labels("reservation_waiting")

    async def open(self) -> Ledger:
        """Migrate, connect the lanes, begin to sweep.

        Raises:
            Unavailable: PostgreSQL can't be reached.
            Internal: the DSN is wrong, or the database is of a later release.
        """
        self._loop = asyncio.get_running_loop()
        connection = await connect(self._dsn)
        try:
            with answers():
                await migrate(connection)
                await connection.fetchval(sql("extend_ledger"), MONTHS_AHEAD)
        finally:
            connection.terminate()
        desks: list[Desk] = []
        try:
            with answers():
                for _ in range(_LANES):
                    desks.append(await self._desk())  # noqa: PERF401 (closed below if one fails)
        except BaseException:
            for desk in desks:
                desk.close()
            raise
        self._tasks = [
            self._loop.create_task(self._lane(desk), name=f"ledger lane {n}")
            for n, desk in enumerate(desks)
        ]
        upkeep = Upkeep(self._options, self._shared, self._desk, self._expire)
        self._tasks.append(self._loop.create_task(self._renewals.run(), name="ledger renewals"))
        self._tasks.append(self._loop.create_task(upkeep.sweep(), name="ledger sweep"))
        self._tasks.append(self._loop.create_task(upkeep.prune(), name="ledger prune"))
        return self

    async def close(self, drain_s: float = 5.0) -> None:
        """Take in nothing new, answer what waits within `drain_s`, let go of the connections.
        Safe to call twice."""
        self._draining = True
        if self._tasks and (len(self._rounds) or self._rounds.in_flight):
            self._nothing_left.clear()
            self._kick()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nothing_left.wait(), drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._within.close(drain_s)
        self._shared.close()
        for request in self._rounds.remove(lambda _: True):
            request.fail(Draining("the reservation stops; try again"))

    async def __aenter__(self) -> Ledger:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def reserve(self, msg: Reserve) -> Awaitable[Reserved]:
        """Give the job a row and a lease, or say what its retry token already stands for. Cancel
        the awaitable to forget it while it waits.

        Raises:
            BadRequest: a field can't be stored.
            KeyReused, IdempotencyConflict: another body has the retry token, or others take it.
            Overloaded, Draining: nothing was done, nor will be.
            Unavailable: PostgreSQL didn't answer in time; a lease may have been given, and the
                same reserve finds it.
        """
        patience = min(msg.deadline_s, self._options.reserve_patience_s)
        job = msg.job
        return self._offer((job.tenant_id, job.endpoint, job.retry_token), msg, patience)

    def settle(self, msg: Settle, node: str = "") -> Awaitable[Settled]:
        """Close the job for good if `fencing_token` is its latest: usage, ledger and lease with it.
        If it comes from another `node`, only a job that is or was with a worker there.

        Raises:
            BadRequest, Overloaded, Draining, Unavailable: as for `reserve`.
        """
        told = self._answers.admitted(msg)
        written = self._offer(told.job_id, told, self._options.settle_patience_s, node)
        return self._answers.waits(told, written)

    def renew(self, msg: Renew, node: str = "") -> Awaitable[Renewed]:
        """Let the leases of these jobs go on. If it comes from another `node`, only those with a
        worker there.

        Raises:
            BadRequest, Overloaded, Draining: as for `reserve`.
            Unavailable: PostgreSQL didn't answer; ask another reservation.
        """
        if self._draining:
            raise Draining("the reservation stops; try again", retry_after_s=1.0)
        return self._renewals.offer(msg, node)

    def _offer(
        self, key: object, msg: Reserve | Settle, patience: float, node: str = ""
    ) -> asyncio.Future[Any]:
        if self._draining:
            raise Draining("the reservation stops; try again", retry_after_s=1.0)
        loop = self._loop
        request = WaitingRequest(
            msg, check(msg), loop.create_future(), loop.time() + patience, node
        )
        if isinstance(msg, Reserve) and msg.job.tenant_id in self._budgeted:
            self._within.offer(key, request)
            return request.future
        if not self._rounds.offer(key, request):
            self._refused.inc()
            raise Overloaded(
                f"{self._options.waiting_max} reserves and settles wait for PostgreSQL already; "
                "try again",
                retry_after_s=1.0,
            )
        if self._idle and not self._kicked:
            # Not at once: all messages of one read of the socket should share a round.
            self._kicked = True
            loop.call_soon(self._kick)
        return request.future

    def _kick(self) -> None:
        """Wake as many idle lanes as there are rounds to fill."""
        self._kicked = False
        rounds = -(-len(self._rounds) // self._options.round_max) or 1
        while self._idle and rounds > 0:
            lane = self._idle.popleft()
            if not lane.done():
                lane.set_result(None)
                rounds -= 1

    # ---- lanes

    async def _desk(self, kind: type[D] = Desk) -> D:  # type: ignore[assignment]
        desk = await kind.open(
            self._dsn,
            lease_s=self._options.lease_s,
            timeout_s=self._options.statement_s,
            prices=self._prices,
            keep_s=self._options.answers.keep_s,
            budgeted=self._budgeted,
        )
        # An idle lane whose connection ends makes another before it is needed.
        desk.connection.add_termination_listener(lambda _: self._wake())
        return desk

    def _wake(self) -> None:
        while self._idle:
            lane = self._idle.popleft()
            if not lane.done():
                lane.set_result(None)

    async def _lane(self, desk: Desk) -> None:
        try:
            while True:
                if desk.closed:
                    desk = await self._reconnected()
                taken = self._rounds.take(WaitingRequest.wanted)
                if not taken:
                    if not self._rounds.in_flight:
                        self._nothing_left.set()
                    idle = self._loop.create_future()
                    self._idle.append(idle)
                    await idle
                    continue
                again: _Taken = taken
                try:
                    again = await self._round(desk, taken)
                except LOST as error:
                    desk.close()
                    self._reason = str(error) or type(error).__name__
                    metrics.reservation_retried.inc()
                finally:
                    self._rounds.done(taken, again)
                    if again:
                        self._expire()
        finally:
            desk.close()

    async def _round(self, desk: Desk, taken: _Taken) -> _Taken:
        """Run a round, answer its requests, and return those to be asked once more. A fault of
        one request fails that one: a round that PostgreSQL refuses is halved until it is found.
        """
        reserving = [e for e in taken if type(e[1].msg) is Reserve]
        settling = [e for e in taken if type(e[1].msg) is Settle]
        began = time.perf_counter()
        try:
            answers, settled = await desk.round(
                [(r.job, r.msg) for _, r in reserving],  # type: ignore[misc]
                [Told(r.job, r.msg, r.node) for _, r in settling],  # type: ignore[arg-type]
            )
        except asyncpg.DiskFullError as error:
            # The connection is well, and nothing was done. Settles wait: their answers were given.
            self._reason = str(error)
            for _, request in reserving:
                request.fail(full(error))
            await asyncio.sleep(_FULL_S)
            return settling
        except LOST:
            raise
        except (asyncpg.PostgresError, ValueError, TypeError) as error:
            if await desk.extended(error):
                return taken
            if len(taken) > 1:
                half = len(taken) // 2
                first = await self._round(desk, taken[:half])
                return first + await self._round(desk, taken[half:])
            kind = type(taken[0][1].msg).__name__
            heard.error("round.refused", kind, error=str(error), request=kind)
            taken[0][1].fail(Internal(f"PostgreSQL refused it: {error}"))
            return []
        metrics.reservation_round_seconds.observe(time.perf_counter() - began)
        metrics.reservation_round_items.observe(len(taken))
        self._used.set(len(self._rounds))
        stale = 0
        for (_, request), done in zip(settling, settled, strict=True):
            stale += not done.first
            if not request.future.done():
                request.future.set_result(done)
        if stale:
            metrics.reservation_stale.inc(stale)
        again: _Taken = []
        for entry, answer in zip(reserving, answers, strict=True):
            if entry[1].take(answer):
                continue
            if entry[1].msg.job.tenant_id in self._budgeted:  # type: ignore[union-attr]
                self._longer_road(entry)
            else:
                again.append(entry)
        return again

    def _longer_road(self, entry: tuple[object, WaitingRequest]) -> None:
        """Its tenant has budgets, as has turned out."""
        try:
            self._within.offer(*entry)
        except Overloaded as error:
            entry[1].fail(error)

    async def _reconnected(self) -> Desk:
        """A new connection, however long it takes; meanwhile those whose patience ends are told."""
        log.warning("postgres.lost", reason=self._reason)

        async def attempt(_: Attempt) -> Desk:
            try:
                return await self._desk()
            except (TetherError, *LOST, asyncpg.PostgresError) as error:
                raise Unavailable(str(error) or type(error).__name__) from error

        def away(error: Exception, pause_s: float) -> None:
            self._reason = str(error)
            self._expire()

        desk = await run(self._away, attempt, on_again=away)
        log.info("postgres.back")
        return desk

    def _expire(self) -> None:
        now = self._loop.time()
        self._within.expire(now)
        for request in self._rounds.remove(lambda r: r.future.done() or r.deadline <= now):
            request.fail(
                Unavailable(
                    f"PostgreSQL doesn't answer ({self._reason}); try again", retry_after_s=1.0
                ),
            )
