"""Renewals of leases: what came while one statement ran goes into the next.

Who is refused, or hears that PostgreSQL is away, asks another reservation or a little later; so
nothing is tried again here.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import asyncpg

from actors.contracts import HeldJob, Renew, Renewed
from actors.stores import metrics
from actors.stores.database import LOST, answers
from actors.stores.message_check import check_held
from actors.stores.shared_desk import SharedDesk
from supervision.errors import Draining, Internal, Overloaded, TetherError
from supervision.telemetry import bounds, logs

log = logs.get(__name__)

WAITING = 65_536  # jobs; more than all workers of a region run at once
AT_ONCE = 2_048  # jobs of one statement


class _Asked(NamedTuple):
    rows: list[tuple[Any, HeldJob, str]]
    future: asyncio.Future[Renewed]


class Renewals:
    """
    Args:
        desk: the connection that they go by.
    """

    def __init__(self, desk: SharedDesk) -> None:
        self._desk = desk
        self._asked: list[_Asked] = []
        self._waiting = 0
        self._news = asyncio.Event()
        self._used = bounds.used.labels("reservation_renewals")
        self._refused = bounds.refused.labels("reservation_renewals")

    def offer(self, msg: Renew, node: str = "") -> asyncio.Future[Renewed]:
        """Let them go on; those of another `node`, only with its own workers.

        Raises:
            BadRequest: a job has no id, or a number doesn't fit.
            Overloaded: too many wait.
        """
        rows = [(check_held(one), one, node) for one in msg.jobs]
        if self._waiting + len(rows) > WAITING:
            self._refused.inc()
            raise Overloaded(
                f"{self._waiting} leases wait to be renewed already; ask another reservation",
                retry_after_s=1.0,
            )
        future = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(rows, future))
        self._waiting += len(rows)
        self._news.set()
        return future

    async def run(self) -> None:
        """Until cancelled; then those that wait are told."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._asked:
                    await self._round()
        finally:
            for asked in self._take():
                _fail(asked, Draining("the reservation stops; try again"))

    async def _round(self) -> None:
        taken = self._take()
        try:
            with answers():
                gone = await self._renew([row for asked in taken for row in asked.rows])
        except TetherError as error:
            self._fail(taken, error)
        except (*LOST, asyncpg.PostgresError) as error:
            self._fail(taken, Internal(f"PostgreSQL refused to renew leases: {error}"))
        except BaseException:
            self._fail(taken, Draining("the reservation stops; try again"))
            raise
        else:
            for asked in taken:
                if not asked.future.done():
                    theirs = tuple(one.job_id for _, one, _ in asked.rows if id(one) in gone)
                    asked.future.set_result(Renewed(gone=theirs))

    async def _renew(self, rows: list[tuple[Any, HeldJob, str]]) -> set[int]:
        """The identities of those that are gone."""
        gone: set[int] = set()
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            async with self._desk.use() as desk:
                gone.update(map(id, await desk.renew(part)))
            metrics.reservation_renewed.inc(len(part))
        return gone

    def _take(self) -> list[_Asked]:
        taken, self._asked = self._asked, []
        self._used.set(self._waiting)
        self._waiting = 0
        return taken

    @staticmethod
    def _fail(taken: list[_Asked], error: TetherError) -> None:
        log.warning("leases.not_renewed", reason=str(error), asks=len(taken))
        for asked in taken:
            _fail(asked, error)


def _fail(asked: _Asked, error: TetherError) -> None:
    if not asked.future.done():
        asked.future.set_exception(error)
