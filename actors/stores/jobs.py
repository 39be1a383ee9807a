"""One round of reserves and settles on one connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import asyncpg

from actors.contracts import (
    HeldJob,
    Outcome,
    Reserve,
    Settle,
    Settled,
)
from actors.core.price import PriceBook
from actors.stores.bill import is_billed
from actors.stores.budgeted_tenants import BudgetedTenants
from actors.stores.database import connect
from actors.stores.message_check import check_uuid
from actors.stores.queries import sql
from actors.stores.reserve_answers import Answer, answer_of, free, given
from actors.stores.verdict import Verdict

# The tables of jobs and leases churn, so their statistics are always wrong; every access is by
# key, and a plan by index is right at any size.
_PLANNER = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "client_connection_check_interval": "1000",
    # The host of a sweeper may vanish without a word: its lock must not stay.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
_AMENDS = 2
DAY_S = 86_400.0


class Told(NamedTuple):
    """A settle of a round: its job's UUID, and the other node that it comes from ("": the own)."""

    job: Any
    msg: Settle
    node: str = ""


class Contested(NamedTuple):
    """What reserves came to that found their jobs there; which of them (by their places) found one
    that has to reserve of budgets first; how many were given theirs."""

    answers: list[Answer]
    anew: list[int]
    given: int


class Swept(NamedTuple):
    """How many leases that had run out were looked at, how many jobs were expired by it, and how
    many leases deleted, with them or for they were of no running job."""

    due: int
    expired: int
    freed: int


class Desk:
    """One connection with the statements of a round prepared on it."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        *,
        lease_s: float,
        timeout_s: float,
        prices: PriceBook,
        keep_s: float,
        budgeted: BudgetedTenants,
    ) -> None:
        self.connection = connection
        self._keep = keep_s
        self._lease = lease_s
        self._timeout = timeout_s
        self._prices = prices
        self._budgeted = budgeted
        self._round: Any = None
        self._amend: Any = None
        self._contest: Any = None

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        lease_s: float,
        timeout_s: float,
        prices: PriceBook | None = None,
        budgeted: BudgetedTenants | None = None,
        keep_s: float = DAY_S,
    ) -> Self:
        """Connect and prepare. A lease lives for `lease_s` unless it is renewed; a statement that
        takes longer than `timeout_s` is given up. A job is given the price that `prices` has now,
        and the answer that comes with a settle is kept for `keep_s`. Those whose tenants are
        `budgeted` aren't opened by a round, but by `BudgetDesk`.

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
            desk = cls(
                connection,
                lease_s=lease_s,
                timeout_s=timeout_s * 1.5,
                prices=prices or PriceBook(),
                keep_s=keep_s,
                budgeted=budgeted or BudgetedTenants(),
            )
            desk._round = await connection.prepare(sql("settle_and_reserve"), timeout=timeout_s)
            desk._amend = await connection.prepare(sql("amend"), timeout=timeout_s)
            desk._contest = await connection.prepare(sql("contest"), timeout=timeout_s)
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
        self, reserves: Sequence[tuple[Any, Reserve]], settles: Sequence[Told]
    ) -> tuple[list[Answer], list[Settled]]:
        """Reserve and settle in one transaction; what it leaves, in one more of each kind. Answers
        come in the order of the messages; rows are taken in the same order by everybody. Safe to
        repeat when it is unknown whether it took effect: a reserve finds its own job again, and a
        settle changes nothing the second time.

        Raises:
            asyncpg.PostgresError, OSError, TimeoutError: nothing can be said of the round.
        """
        plain = [entry for entry in reserves if entry[1].job.tenant_id not in self._budgeted]
        opening = sorted((entry for entry in plain if entry[1].worker_id), key=token_order)
        closing = sorted(settles, key=_job)
        row = await self._round.fetchrow(
            *self._reserve_columns(opening),
            self._lease,
            *_settle_columns(closing),
            self._keep,
            self._budgeted.newest,
            timeout=self._timeout,
        )
        opened = {id(opening[n - 1][1]) for n in row["opened"] or ()}
        first = {id(closing[n - 1].msg) for n in row["closed"] or ()}
        if len(first) < len(settles):
            first |= await self._amended([told for told in closing if id(told.msg) not in first])
        settled = [Settled(job_id=m.job_id, first=id(m) in first) for _, m, _ in settles]
        answers: list[Answer] = [
            given(m, m.job.job_id, 1) if id(m) in opened else None for _, m in reserves
        ]
        if row["newest_budget"] != self._budgeted.newest:
            await self.read_budgets()  # nothing was opened; it is asked once more
        elif len(opened) < len(plain):
            taken = [
                n
                for n, (_, m) in enumerate(reserves)
                if answers[n] is None and m.job.tenant_id not in self._budgeted
            ]
            contested = await self._contested([reserves[n] for n in taken], over=False)
            for n, answer in zip(taken, contested.answers, strict=True):
                answers[n] = answer
        return answers, settled

    async def read_budgets(self) -> None:
        """Which tenants have any."""
        row = await self.connection.fetchrow(sql("budgeted_tenants"), timeout=self._timeout)
        self._budgeted.read(row["newest"], row["tenants"] or ())

    async def _amended(self, left: list[Told]) -> set[int]:
        """The identities of those messages that closed a job after all."""
        first: set[int] = set()
        for _ in range(_AMENDS):
            closed = await self._amend.fetchval(
                *_settle_columns(left),
                [_delivered(told.msg) for told in left],
                self._keep,
                timeout=self._timeout,
            )
            first |= {id(left[n - 1].msg) for n in closed or ()}
            # One from another node may have been given away while the statement waited for it;
            # only the next one sees the attempt that this has left.
            left = [told for told in left if told.node and _delivered(told.msg)]
            left = [told for told in left if id(told.msg) not in first]
            if not left:
                break
        return first

    async def _contested(self, reserves: list[tuple[Any, Reserve]], *, over: bool) -> Contested:
        """`over`: what is over has reserved anew, if it has to."""
        rows = await self._contest.fetch(
            *self._reserve_columns(reserves),
            self._lease,
            [m.ownership.held_claim_token for _, m in reserves],
            [m.ownership.lost_fencing_token for _, m in reserves],
            None if over else self._gives_over,
            timeout=self._timeout,
        )
        answers: list[Answer] = [None if m.worker_id else free(m) for _, m in reserves]
        anew: list[int] = []
        for row in rows:
            m = reserves[row["n"] - 1][1]
            answers[row["n"] - 1] = answer_of(m, row)
            if row["verdict"] == Verdict.ANEW:
                anew.append(row["n"] - 1)
        return Contested(answers, anew, sum(row["given_fence"] is not None for row in rows))

    @property
    def _gives_over(self) -> int:
        """The budget up to which all are known not to concern a job that is over."""
        return self._budgeted.newest

    def _reserve_columns(self, reserves: Sequence[tuple[Any, Reserve]]) -> tuple[list[Any], ...]:
        at, prices = time.time(), self._prices
        return (
            [job for job, _ in reserves],
            [m.job.tenant_id for _, m in reserves],
            [m.job.endpoint for _, m in reserves],
            [m.job.retry_token for _, m in reserves],
            [m.job.fingerprint for _, m in reserves],
            [m.job.model_ref for _, m in reserves],
            [m.worker_id for _, m in reserves],
            [m.worker_address for _, m in reserves],
            [m.ownership.attempt for _, m in reserves],
            [m.ownership.claim_token for _, m in reserves],
            [m.job.key_id or None for _, m in reserves],
            [prices.version_of(m.job.model_ref, at) for _, m in reserves],
        )

    async def renew(self, held: Sequence[tuple[Any, HeldJob, str]]) -> list[HeldJob]:
        """Let the leases of these jobs go on: (UUID, which, the other node that says so). Returns
        those that have no such lease."""
        ordered = sorted(held, key=_job)
        gone = await self.connection.fetchval(
            sql("renew"),
            [job for job, _, _ in ordered],
            [one.fencing_token for _, one, _ in ordered],
            [one.emitted for _, one, _ in ordered],
            [node for _, _, node in ordered],
            self._lease,
            timeout=self._timeout,
        )
        return [ordered[n - 1][1] for n in gone or ()]

    async def sweep(self, most: int) -> Swept:
        """Expire the jobs of up to `most` leases that have run out."""
        row = await self.connection.fetchrow(sql("sweep"), most, self._lease, timeout=self._timeout)
        return Swept(row["due"], row["expired"], row["freed"])

    async def only_one(self, work: int) -> bool:
        """Whether this connection is the one of the cluster that does this work from here on."""
        return bool(await self.connection.fetchval(sql("only_one"), work, timeout=self._timeout))

    async def prune_jobs(self, before: str, seconds: float, most: int) -> int:
        """Delete up to `most` jobs with an id below `before` that are over for `seconds`; returns
        how many there were."""
        arguments = (check_uuid(before), seconds, most)
        statement = sql("prune_jobs")
        return int(await self.connection.fetchval(statement, *arguments, timeout=self._timeout))

    async def extended(self, error: Exception) -> bool:
        """Was `error` that the ledger had no month for the clock of PostgreSQL? It has one now.
        They are made ahead, unless that clock jumps."""
        if not isinstance(error, asyncpg.CheckViolationError) or "no partition" not in str(error):
            return False
        await self.extend_ledger(0)
        return True

    async def extend_ledger(self, months: int) -> int:
        """Make the ledger's months of now and of the next ones; returns how many it made."""
        made = await self.connection.fetchval(sql("extend_ledger"), months, timeout=self._timeout)
        return int(made)

    async def drop_ledger(self, seconds: float) -> list[str]:
        """Drop the months of the ledger that ended so many seconds ago; returns their names."""
        dropped = await self.connection.fetchval(sql("drop_ledger"), seconds, timeout=self._timeout)
        return list(dropped)


def token_order(entry: tuple[Any, Reserve]) -> tuple[str, str, str]:
    """The order in which jobs that may be new are locked, everywhere."""
    job = entry[1].job
    return job.tenant_id, job.endpoint, job.retry_token


def _job(entry: tuple[Any, Any, str]) -> Any:
    return entry[0]


def _delivered(m: Settle) -> bool:
    return m.delivered and m.outcome == Outcome.COMPLETED


def _settle_columns(settles: Sequence[Told]) -> tuple[list[Any], ...]:
    return (
        [job for job, _, _ in settles],
        [m.fencing_token for _, m, _ in settles],
        [m.outcome for _, m, _ in settles],
        [m.usage.prompt_tokens for _, m, _ in settles],
        [m.usage.cached_tokens for _, m, _ in settles],
        [m.usage.reasoning_tokens for _, m, _ in settles],
        [m.usage.completion_tokens for _, m, _ in settles],
        [m.finish for _, m, _ in settles],
        [m.error_code for _, m, _ in settles],
        [is_billed(m) for _, m, _ in settles],
        [node for _, _, node in settles],
        [m.answer for _, m, _ in settles],
    )
