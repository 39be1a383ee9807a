"""A connection pool to PostgreSQL whose schema is up to date."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from supervision.errors import DiskFull, Internal, TetherError, Unavailable
from supervision.policies import Breaker, BreakerOptions, Budget, Retry, RetryOptions, Stack
from supervision.policies.async_driver import Attempt, OnAgain, run

T = TypeVar("T")

# Any number that no other program takes in this database; it is the CRC-32 of "tether".
MIGRATION_LOCK = 0x74BB_34E8
_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")
_OLDEST_SERVER = 14
#: While a server is away: it restarts within a second or two, and few ask at once.
AWAY: Final = RetryOptions(attempts=0, initial_s=0.05, max_s=0.25, heeds=False)
_ONCE_MORE: Final = RetryOptions(attempts=3, initial_s=0.05, max_s=0.25, heeds=False)
_BREAKER: Final = BreakerOptions(open_s=0.5, max_open_s=2.0)

#: What a connection that broke, or a server that is starting, stopping or full, raises. The
#: statement may or may not have taken effect; the same again is right where it is idempotent.
LOST: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)


class Migration(NamedTuple):
    """A numbered step of the schema, applied once and never changed afterwards."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the statement, so that a step changed after its release is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> tuple[Migration, ...]:
    """All migrations of this release, in order.

    Raises:
        ValueError: a file is misnamed, or a number is missing or there twice.
    """
    found: list[Migration] = []
    for file in resources.files("actors.stores.migrations").iterdir():
        if file.name.endswith(".sql"):
            match = _FILE.match(file.name)
            if match is None:
                raise ValueError(f"the migration {file.name} must be called NNNN_name.sql")
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8")))
    found.sort()
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations must be numbered 0001, 0002, … without a gap")
    return tuple(found)


async def migrate(
    connection: asyncpg.Connection, steps: tuple[Migration, ...] | None = None
) -> int:
    """Bring the schema up to date; returns how many steps were applied.

    Many processes may do it at once: each takes an advisory lock, and all steps are one
    transaction, so a schema is never half migrated.

    Raises:
        Internal: the schema is of a later release, or a step was changed after it was applied; or
            it is behind, and this user may not change it.
    """
    try:
        return await _migrated(connection, migrations() if steps is None else steps)
    except asyncpg.InsufficientPrivilegeError as error:
        raise Internal(
            f"the schema has to be migrated, and this user may not ({_reason(error)}); run "
            "`tether db roles` with the DSN of the schema's owner"
        ) from error


async def _migrated(connection: asyncpg.Connection, steps: tuple[Migration, ...]) -> int:
    if await _applied(connection, steps) == len(steps):
        return 0
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS tether_migrations (number integer PRIMARY KEY, "
            "name text NOT NULL, digest text NOT NULL, applied_at timestamptz NOT NULL "
            "DEFAULT now())"
        )
        done = await _applied(connection, steps)
        for step in steps[done:]:
            await connection.execute(step.sql)
            await connection.execute(
                "INSERT INTO tether_migrations (number, name, digest) VALUES ($1, $2, $3)",
                step.number,
                step.name,
                step.digest,
            )
    return len(steps) - done


async def _applied(connection: asyncpg.Connection, steps: tuple[Migration, ...]) -> int:
    if await connection.fetchval("SELECT to_regclass('tether_migrations')") is None:
        return 0
    rows = await connection.fetch("SELECT number, digest FROM tether_migrations ORDER BY number")
    if len(rows) > len(steps):
        raise Internal(
            f"the database is at migration {len(rows)}, and this release knows only {len(steps)}; "
            "start the newer release, or give this one a database of its own"
        )
    for row, step in zip(rows, steps, strict=False):
        if row["digest"] != step.digest:
            raise Internal(
                f"migration {step.number:04} ({step.name}) was changed after the database applied "
                "it; restore the file, and write a new migration for the change"
            )
    return len(rows)


async def connect(dsn: str, *, timeout: float = 5.0, **settings: str) -> asyncpg.Connection:
    """One connection; `settings` are parameters of the server for this session.

    Raises:
        Unavailable: the server can't be reached, or doesn't let us in.
        Internal: the server is too old, or the DSN is none.
    """
    try:
        # asyncpg's own timeout leaves out name resolution and files; ours covers all of it.
        async with asyncio.timeout(timeout):
            connection = await asyncpg.connect(
                dsn, timeout=timeout, server_settings={"application_name": "tether", **settings}
            )
    except ValueError as error:  # first: asyncpg's errors of this kind are InterfaceErrors too
        raise Internal(f"the PostgreSQL DSN can't be used: {_reason(error)}") from error
    except LOST as error:
        raise Unavailable(
            f"PostgreSQL can't be reached ({_reason(error)}); see that it runs and that the DSN "
            "is right",
            retry_after_s=1.0,
        ) from error
    except asyncpg.PostgresError as error:
        raise Internal(
            f"PostgreSQL doesn't let Tether in ({_reason(error)}); correct the DSN"
        ) from error
    if connection.get_server_version().major < _OLDEST_SERVER:
        version = connection.get_server_version().major
        await connection.close(timeout=timeout)
        raise Internal(
            f"PostgreSQL {version} is too old; give Tether a server of version {_OLDEST_SERVER} "
            "or later"
        )
    return connection


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def full(error: asyncpg.DiskFullError) -> DiskFull:
    """What PostgreSQL means by it."""
    return DiskFull(
        f"PostgreSQL's disk is full ({_reason(error)}); free some of it, then try again",
        retry_after_s=1.0,
    )


@contextmanager
def answers() -> Iterator[None]:
    """Turn what `LOST` names into `Unavailable` (a full disk into `DiskFull`), for those who don't
    try again themselves."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise full(error) from error
    except LOST as error:
        raise Unavailable(
            f"PostgreSQL doesn't answer ({_reason(error)}); try again", retry_after_s=1.0
        ) from error


async def patiently(
    reach: Callable[[], Awaitable[T]], patience_s: float, on_again: OnAgain | None = None
) -> T:
    """What `reach` returns; while the server is away, which may be restarting like everything
    else, it is called again for `patience_s` (0: once).

    Raises:
        what `reach` raised last.
    """
    if patience_s <= 0:
        return await reach()
    until = asyncio.get_running_loop().time() + patience_s
    stack = Stack(Retry(AWAY, random.random, budget=None))
    return await run(stack, lambda _: reach(), until=until, on_again=on_again)


class Database:
    """A pool for what isn't batched: keys, the catalog, looking at jobs.

    `async with Database(dsn) as database: await database.fetch(sql("list_models"))`. Opening it
    migrates the schema. A broken connection is replaced by the pool at the next use; a statement
    that had not begun by then is tried again, and so is a SELECT that had. A server that keeps
    failing is left alone for half a second and more.

    Raises (from `open` and every query):
        Unavailable: the server can't be reached, or no connection was free within `timeout_s`.
    """

    def __init__(self, dsn: str, *, size: int = 2, timeout_s: float = 5.0) -> None:
        self.dsn = dsn
        self._size = size
        self._timeout = timeout_s
        self._pool: asyncpg.Pool | None = None
        self._stack = Stack(Retry(_ONCE_MORE, random.random, Budget()), Breaker(_BREAKER))

    async def open(self, patience_s: float = 0.0) -> Database:
        """Connect and migrate. A server that is away is tried again for `patience_s`, for it may
        be restarting like everything else."""
        connection = await patiently(lambda: connect(self.dsn, timeout=self._timeout), patience_s)
        try:
            with answers():
                await migrate(connection)
        finally:
            await connection.close(timeout=self._timeout)
        with answers():
            self._pool = await asyncpg.create_pool(
                self.dsn,
                min_size=1,
                max_size=self._size,
                timeout=self._timeout,
                command_timeout=self._timeout,
                max_inactive_connection_lifetime=0,
                server_settings={"application_name": "tether"},
            )
        return self

    async def close(self) -> None:
        """Let go of all connections. Safe to call twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await pool.close()
            except (*LOST, asyncpg.PostgresError):
                pool.terminate()

    async def __aenter__(self) -> Database:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def fetch(self, statement: str, *args: Any) -> list[Any]:
        """All rows."""
        return list(await self._run("fetch", statement, args))

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        """The first row, or None."""
        return await self._run("fetchrow", statement, args)

    async def fetchval(self, statement: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return await self._run("fetchval", statement, args)

    async def execute(self, statement: str, *args: Any) -> str:
        """The command tag, such as `INSERT 0 1`."""
        return str(await self._run("execute", statement, args))

    async def transact(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """What `work` returns, after all that it did was committed as one transaction; what it
        raises undoes it. Once it has begun it isn't tried again: after `Unavailable` nobody knows
        whether it was committed."""

        async def once(pool: asyncpg.Pool, attempt: Attempt) -> T:
            async with pool.acquire(timeout=self._timeout) as connection:
                attempt.began()
                async with connection.transaction():
                    return await work(connection)

        return await self._attempted(once)

    async def _run(self, method: str, statement: str, args: tuple[Any, ...]) -> Any:
        reads = statement.startswith("SELECT")

        async def once(pool: asyncpg.Pool, attempt: Attempt) -> Any:
            async with pool.acquire(timeout=self._timeout) as connection:
                if not reads:
                    attempt.began()  # it may take effect, and may not be repeatable
                return await getattr(connection, method)(statement, *args)

        return await self._attempted(once)

    async def _attempted(self, work: Callable[[asyncpg.Pool, Attempt], Awaitable[T]]) -> T:
        pool = self._pool
        if pool is None:
            raise Unavailable("the database is not open; call open() first")

        async def once(attempt: Attempt) -> T | _Refused:
            try:
                with answers():
                    return await work(pool, attempt)
            except (asyncpg.PostgresError, TetherError) as error:
                if not isinstance(error.__cause__, LOST):
                    return _Refused(error)  # the server is well; it doesn't like the statement
                if isinstance(error.__cause__, TimeoutError):
                    attempt.began()  # so much was waited already
                raise

        answer = await run(self._stack, once)
        if isinstance(answer, _Refused):
            raise answer.error
        return answer


class _Refused(NamedTuple):
    error: asyncpg.PostgresError | TetherError
