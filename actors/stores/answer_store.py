"""The store of finished answers, as who says them again reads it: one connection, made when it is
needed and let go of when it isn't. Who settles a job writes its answer (`Desk.round`)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import asyncpg

from actors.contracts import AnswerFetched, Billed, FetchAnswer
from actors.stores.database import answers, connect
from actors.stores.message_check import check_uuid
from actors.stores.queries import sql
from supervision.errors import Overloaded, Unavailable
from supervision.telemetry import bounds

WAITING: Final = 1024
STATEMENT_S: Final = 5.0
IDLE_S: Final = 30.0


class AnswerStore:
    """Used from one loop. Those who ask wait for one another."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._connection: asyncpg.Connection | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._used = bounds.used.labels("reservation_answers_waiting")
        self._refused = bounds.refused.labels("reservation_answers_waiting")

    async def fetch(self, ask: FetchAnswer) -> AnswerFetched:
        """The answer of a job, or what it was billed.

        Raises:
            BadRequest: the id of the job is none.
            Overloaded: too many wait.
            Unavailable: PostgreSQL doesn't answer; it may be asked again.
        """
        job = check_uuid(ask.job_id)
        if self._waiting >= WAITING:
            self._refused.inc()
            raise Overloaded(f"{WAITING} wait for kept answers already", retry_after_s=1.0)
        self._waiting += 1
        self._used.set(self._waiting)
        try:
            async with self._turn:
                return await self._fetched(job, ask)
        finally:
            self._waiting -= 1
            self._used.set(self._waiting)

    async def _fetched(self, job: object, ask: FetchAnswer) -> AnswerFetched:
        if self._connection is not None:
            # It has been idle, and the server may have ended it long ago.
            with suppress(Unavailable):
                return await self._read(self._connection, job, ask)
        self.close()
        milliseconds = str(int(STATEMENT_S * 1000))
        self._connection = await connect(
            self._dsn, timeout=STATEMENT_S, statement_timeout=milliseconds
        )
        return await self._read(self._connection, job, ask)

    async def _read(
        self, connection: asyncpg.Connection, job: object, ask: FetchAnswer
    ) -> AnswerFetched:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.close)
        whose = (job, ask.tenant_id)
        with answers():
            if not ask.only_bill:
                found = await connection.fetchval(sql("fetch_answer"), *whose, timeout=STATEMENT_S)
                if found:
                    return AnswerFetched(answer=found)
            row = await connection.fetchrow(sql("bill_of_job"), *whose, timeout=STATEMENT_S)
        return AnswerFetched(billed=None if row is None else Billed(**dict(row)))

    def close(self) -> None:
        """Let go of the connection. Safe to call twice, and it is made anew when it is needed."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
