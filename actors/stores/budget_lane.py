"""The lane of reserves whose tenants have budgets: rounds and a connection of their own.

Who waits here for a budget that many share keeps nobody waiting who has none. The connection is
made when the first one comes, and made anew when it is lost; a round whose fate is unknown is sent
again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg

from actors.contracts import Reserve
from actors.stores import metrics
from actors.stores.budget_desk import BudgetDesk
from actors.stores.database import AWAY, LOST, full
from actors.stores.ledger_options import LedgerOptions
from actors.stores.rounds import Rounds
from actors.stores.waiting_request import WaitingRequest
from supervision.errors import Draining, Internal, Overloaded, TetherError, Unavailable
from supervision.policies import Retry, Stack
from supervision.policies.async_driver import Attempt, run
from supervision.telemetry import bounds, logs

log = logs.get(__name__)

REREAD_S = 60.0  # whether tenants have budgets yet: who has none goes the shorter road again
_Taken = list[tuple[object, WaitingRequest]]


class BudgetLane:
    """Used from one loop.

    Args:
        desk: opens the connection.
    """

    def __init__(self, options: LedgerOptions, desk: Callable[[], Awaitable[BudgetDesk]]) -> None:
        self._desk = desk
        self._rounds: Rounds[object, WaitingRequest] = Rounds(
            most=options.round_max, waiting=options.waiting_max, at_once=1
        )
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._done = asyncio.Event()
        self._reason = "it was never reached"
        self._away = Stack(Retry(AWAY, random.random, budget=None))
        self._used = bounds.used.labels("reservation_budgets_waiting")
        self._refused = bounds.refused.labels("reservation_budgets_waiting")

    def offer(self, key: object, request: WaitingRequest) -> None:
        """Let a reserve wait for the next round; its future tells what it came to.

        Raises:
            Overloaded: too many wait.
        """
        if not self._rounds.offer(key, request):
            self._refused.inc()
            raise Overloaded(
                f"{len(self._rounds)} reserves wait for budgets already; try again",
                retry_after_s=1.0,
            )
        self._done.clear()
        self._more.set()
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="ledger lane of budgets")

    async def close(self, drain_s: float) -> None:
        """Answer what waits within `drain_s`, let go of the connection. Safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            if len(self._rounds) or self._rounds.in_flight:
                await asyncio.wait_for(self._done.wait(), drain_s)
        except TimeoutError:
            pass
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for request in self._rounds.remove(lambda _: True):
                request.fail(Draining("the reservation stops; try again"))

    def expire(self, now: float) -> None:
        """Those whose patience has ended are told; now and then."""
        for request in self._rounds.remove(lambda r: r.future.done() or r.deadline <= now):
            request.fail(
                Unavailable(
                    f"PostgreSQL doesn't answer ({self._reason}); try again", retry_after_s=1.0
                )
            )

    async def _run(self) -> None:
        desk: BudgetDesk | None = None
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        try:
            while True:
                taken = self._rounds.take(WaitingRequest.wanted)
                if not taken:
                    self._done.set()
                    self._more.clear()
                    await self._more.wait()
                    continue
                again = taken
                try:
                    if desk is None or desk.closed:
                        desk = await self._connected(loop)
                    again = await self._round(desk, taken)
                    if loop.time() - read_at >= REREAD_S:
                        read_at = loop.time()
                        await desk.read_budgets()
                except LOST as error:
                    if desk is not None:
                        desk.close()
                    self._reason = str(error) or type(error).__name__
                    metrics.reservation_retried.inc()
                finally:
                    self._rounds.done(taken, again)
                    self._used.set(len(self._rounds))
                    self.expire(loop.time())
        finally:
            if desk is not None:
                desk.close()

    async def _round(self, desk: BudgetDesk, taken: _Taken) -> _Taken:
        """Those that must be asked once more. A round that PostgreSQL refuses is halved until the
        one that is at fault is found."""
        wanted = [entry for entry in taken if entry[1].wanted()]
        try:
            answers = await desk.within(
                [(r.job, r.msg) for _, r in wanted if isinstance(r.msg, Reserve)]
            )
        except asyncpg.DiskFullError as error:
            for _, request in wanted:
                request.fail(full(error))
            return []
        except LOST:
            raise
        except (asyncpg.PostgresError, ValueError, TypeError, KeyError) as error:
            if len(wanted) > 1:
                half = len(wanted) // 2
                first = await self._round(desk, wanted[:half])
                return first + await self._round(desk, wanted[half:])
            log.error("round.refused", error=str(error), request="Reserve")
            for _, request in wanted:
                request.fail(Internal(f"PostgreSQL refused it: {error}"))
            return []
        metrics.reservation_round_items.observe(len(wanted))
        return [e for e, answer in zip(wanted, answers, strict=True) if not e[1].take(answer)]

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> BudgetDesk:
        async def attempt(_: Attempt) -> BudgetDesk:
            try:
                return await self._desk()
            except (TetherError, *LOST, asyncpg.PostgresError) as error:
                raise Unavailable(str(error) or type(error).__name__) from error

        def away(error: Exception, pause_s: float) -> None:
            self._reason = str(error)
            self.expire(loop.time())

        return await run(self._away, attempt, on_again=away)
