"""One round of reserves and settles on one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from actors.contracts import Assignment, JobState, Outcome, Reserve, Reserved, Settle, Settled
from actors.errors import IdempotencyConflict
from actors.stores.database import connect
from actors.stores.queries import sql
from actors.stores.verdict import Verdict
from supervision.errors import BadRequest, TetherError

# The tables of jobs and leases churn, so their statistics are always wrong; every access is by
# key, and a plan by index is right at any size.
_PLANNER = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "client_connection_check_interval": "1000",
}
_INT4 = 2**31 - 1
_INT8 = 2**63 - 1
_WORD = 128  # characters of a finish, or of the code of an error
_TOKEN = 512  # characters of a retry token; an entry of the index has at most 2,704 bytes

#: What a request in a round came to; None means that it must be asked once more.
Answer = Reserved | Settled | TetherError | None


def check_uuid(text: str) -> Any:
    """`text` as the UUID that the driver sends.

    Raises:
        BadRequest: it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(f"{text[:60]!r} is no job id; make one with job_id()") from None


def check(msg: Reserve | Settle) -> Any:
    """The job's UUID; whatever would fail a whole round is refused here.

    Raises:
        BadRequest: a field can't be stored.
    """
    if isinstance(msg, Settle):
        usage = msg.usage
        if not (
            0 <= usage.prompt_tokens <= _INT4
            and 0 <= usage.completion_tokens <= _INT4
            and 0 <= msg.fencing_token <= _INT8
        ):
            raise BadRequest(
                "a settle's usage and fencing token must be numbers from 0 that fit a row"
            )
        for word in (msg.finish, msg.error_code):
            if len(word) > _WORD or "\0" in word:
                raise BadRequest(
                    f"finish and error_code of a settle have at most {_WORD} characters, and no NUL"
                )
        return check_uuid(msg.job_id)
    job, own = msg.job, msg.ownership
    tokens = own.claim_token, own.held_claim_token, own.lost_fencing_token
    if not (1 <= own.attempt <= _INT4 and 0 < msg.deadline_s < 1e7):
        raise BadRequest("a reserve needs an attempt from 1 and a deadline above 0 s")
    if not all(0 <= token <= _INT8 for token in tokens):
        raise BadRequest("a reserve's tokens must be numbers from 0 that fit a row")
    if len(job.retry_token) > _TOKEN or "\0" in job.retry_token:
        raise BadRequest(
            f"an Idempotency-Key has at most {_TOKEN} characters, and no NUL",
            param="Idempotency-Key",
        )
    return check_uuid(job.job_id)


class Desk:
    """One connection with the statements of a round prepared on it."""

    def __init__(self, connection: asyncpg.Connection, grace_s: float, timeout_s: float) -> None:
        self.connection = connection
        self._grace = grace_s
        self._timeout = timeout_s
        self._round: Any = None
        self._contest: Any = None
        self._sweep: Any = None

    @classmethod
    async def open(cls, dsn: str, *, grace_s: float, timeout_s: float) -> Desk:
        """Connect and prepare. A lease lives for its request's deadline and `grace_s`; a
        statement that takes longer than `timeout_s` is given up.

        Raises:
            Unavailable, Internal: as `database.connect`.
        """
        # The server itself gives up first, or a backend that hangs on a lock would outlive its
        # connection, and each further try would add one.
        milliseconds = str(max(1, int(timeout_s * 1000)))
        connection = await connect(
            dsn, timeout=timeout_s, statement_timeout=milliseconds, **_PLANNER
        )
        try:
            desk = cls(connection, grace_s, timeout_s * 1.5)
            desk._round = await connection.prepare(sql("settle_and_reserve"), timeout=timeout_s)
            desk._contest = await connection.prepare(sql("contest"), timeout=timeout_s)
            desk._sweep = await connection.prepare(sql("sweep"), timeout=timeout_s)
            # asyncpg flushes after a Parse and doesn't sync, so the server keeps the transaction
            # open, with its locks on the tables, until the next statement has run.
            await connection.execute("SELECT 1", timeout=timeout_s)
        except BaseException:
            connection.terminate()
            raise
        return desk

    def close(self) -> None:
        """Drop the connection; a statement in flight takes effect, or doesn't."""
        self.connection.terminate()

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return bool(self.connection.is_closed())

    async def round(
        self, reserves: Sequence[tuple[Any, Reserve]], settles: Sequence[tuple[Any, Settle, str]]
    ) -> tuple[list[Answer], list[Settled]]:
        """Reserve and settle in one transaction. The lists are (UUID, message), and of settles the
        other node that it comes from ("": the own one); answers come in their order. Safe to repeat
        when it is unknown whether it took effect: a reserve finds its own job again, and a settle
        changes nothing the second time.

        Raises:
            asyncpg.PostgresError, OSError, TimeoutError: nothing can be said of the round.
        """
        opening = [entry for entry in reserves if entry[1].worker_id]
        row = await self._round.fetchrow(
            *self._reserve_columns(opening),
            [m.ownership.claim_token for _, m in opening],
            [job for job, _, _ in settles],
            [m.fencing_token for _, m, _ in settles],
            [m.outcome for _, m, _ in settles],
            [m.usage.prompt_tokens for _, m, _ in settles],
            [m.usage.completion_tokens for _, m, _ in settles],
            [m.finish for _, m, _ in settles],
            [m.error_code for _, m, _ in settles],
            [m.delivered and m.outcome == Outcome.COMPLETED for _, m, _ in settles],
            [node for _, _, node in settles],
            timeout=self._timeout,
        )
        opened, closed = row
        first = set(closed or ())
        settled = [
            Settled(job_id=m.job_id, first=n in first) for n, (_, m, _) in enumerate(settles, 1)
        ]
        given = {id(opening[n - 1][1]) for n in opened or ()}
        answers: list[Answer] = [_given(m, 1) if id(m) in given else None for _, m in reserves]
        if len(given) < len(reserves):
            taken = [n for n, answer in enumerate(answers) if answer is None]
            answered = await self._contested([reserves[n] for n in taken])
            for n, answer in zip(taken, answered, strict=True):
                answers[n] = answer
        return answers, settled

    async def _contested(self, reserves: list[tuple[Any, Reserve]]) -> list[Answer]:
        rows = await self._contest.fetch(
            *self._reserve_columns(reserves),
            [m.ownership.claim_token for _, m in reserves],
            [m.ownership.held_claim_token for _, m in reserves],
            [m.ownership.lost_fencing_token for _, m in reserves],
            timeout=self._timeout,
        )
        answers: list[Answer] = [None if m.worker_id else _free(m) for _, m in reserves]
        for row in rows:
            m = reserves[row["n"] - 1][1]
            answers[row["n"] - 1] = _answer(m, row)
        return answers

    def _reserve_columns(self, reserves: Sequence[tuple[Any, Reserve]]) -> tuple[list[Any], ...]:
        grace = self._grace
        return (
            [job for job, _ in reserves],
            [m.job.tenant_id for _, m in reserves],
            [m.job.retry_token for _, m in reserves],
            [m.job.fingerprint for _, m in reserves],
            [m.job.model_ref for _, m in reserves],
            [m.worker_id for _, m in reserves],
            [m.worker_address for _, m in reserves],
            [m.deadline_s + grace for _, m in reserves],
            [m.ownership.attempt for _, m in reserves],
        )

    async def sweep(self, most: int) -> int:
        """Expire up to `most` jobs whose lease has run out; returns how many there were."""
        return int(await self._sweep.fetchval(most, timeout=self._timeout))

    async def prune(self, table: str, before: str, seconds: float, most: int) -> int:
        """Delete up to `most` rows of `jobs` or `ledger` with an id below `before` that are over
        for `seconds`; returns how many there were."""
        statement = sql(f"prune_{table}")
        arguments = (check_uuid(before), seconds, most)
        return int(await self.connection.fetchval(statement, *arguments, timeout=self._timeout))


def _given(m: Reserve, fencing_token: int) -> Reserved:
    """The job is its asker's, at the worker that was asked for."""
    return Reserved(
        assignment=Assignment(
            job_id=m.job.job_id,
            worker_id=m.worker_id,
            worker_address=m.worker_address,
            fencing_token=fencing_token,
            claim_token=m.ownership.claim_token,
        )
    )


def _free(m: Reserve) -> Reserved:
    return Reserved(
        assignment=Assignment(
            job_id=m.job.job_id,
            worker_id="",
            worker_address="",
            fencing_token=0,
            state=JobState.FREE,
        )
    )


def _answer(m: Reserve, row: Any) -> Answer:
    """What the row of `contest` means to who asked."""
    verdict = Verdict(row["verdict"])
    if verdict is Verdict.FREE:
        return _free(m)
    if verdict is Verdict.CONFLICT:
        return IdempotencyConflict(
            "this Idempotency-Key was used for another request; use a new key, or send the same "
            "body",
            param="Idempotency-Key",
        )
    if verdict is Verdict.GIVE:
        given = row["given_fence"]
        # Without one somebody else was faster; ask how it stands now.
        return None if given is None else _given(m, given)
    led = verdict is Verdict.LED
    return Reserved(
        assignment=Assignment(
            job_id=str(row["held_id"]),
            worker_id=row["held_worker"],
            worker_address=row["held_address"],
            fencing_token=row["held_fence"],
            state=verdict.state,
            claim_token=m.ownership.claim_token if led else row["held_claim"],
        )
    )
