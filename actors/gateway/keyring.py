"""The keys of tenants: each looked up once, believed for a while, forgotten when told."""

from __future__ import annotations

import asyncio

from actors.gateway.admission import TenantLimits
from actors.gateway.keycache import KeyCache
from actors.stores import keys
from actors.stores.database import Database
from supervision.errors import Overloaded, Unauthenticated

PATIENCE_S = 20.0  # with PostgreSQL, at the start
MAX_QUESTIONS = 1000  # look-ups of different keys at once


class Caller:
    """Whose key it is, and what they may use. `name` is for histories, where the key itself must
    not stand; the key of an `operator` may change the registry."""

    __slots__ = ("limits", "name", "operator", "tenant_id")

    def __init__(
        self, tenant_id: str, limits: TenantLimits, *, name: str = "", operator: bool = False
    ) -> None:
        self.tenant_id = tenant_id
        self.limits = limits
        self.name = name
        self.operator = operator

    @classmethod
    def of(cls, grant: keys.Grant, limits: TenantLimits) -> Caller:
        """Who has this grant."""
        name = f"key {grant.key_id} of {grant.tenant_id}"
        return cls(grant.tenant_id, limits, name=name, operator=grant.operator)


class Keyring:
    """Keys by their SHA-256. Many requests with one new key cost one query."""

    def __init__(
        self, dsn: str, limits: TenantLimits, *, bound: int, present_s: float, absent_s: float
    ) -> None:
        self._dsn = dsn
        self._database = Database(dsn)
        self._limits = limits
        self._cache: KeyCache[Caller] = KeyCache(bound, present_s, absent_s)
        self._asked: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._forgotten = 0  # how often, so that a look-up under way isn't believed afterwards

    def __len__(self) -> int:
        return len(self._cache)

    async def open(self) -> None:
        """
        Raises:
            Unavailable: PostgreSQL can't be reached, and wasn't back within `PATIENCE_S`.
        """
        await self._database.open(PATIENCE_S)

    async def close(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()
        await self._database.close()

    async def watch(self) -> None:
        """Forget what changed in PostgreSQL; until cancelled."""
        await keys.watch(
            self._dsn,
            key=self._forget,
            tenant=lambda _: self._forget(None),
            everything=lambda: self._forget(None),
        )

    def _forget(self, digest: bytes | None) -> None:
        self._forgotten += 1
        self._cache.forget(digest)

    def known(self, credential: str, now: float) -> Caller | None:
        """The caller, if no question to PostgreSQL is needed; None when one is.

        Raises:
            Unauthenticated: the key is known to be none.
        """
        known, caller = self._cache.get(keys.digest(credential), now)
        if known and caller is None:
            raise _unknown()
        return caller

    async def caller(self, credential: str, loop: asyncio.AbstractEventLoop) -> Caller:
        """As `known`, and where that doesn't tell, as `find`."""
        return self.known(credential, loop.time()) or await self.find(credential, loop)

    async def find(self, credential: str, loop: asyncio.AbstractEventLoop) -> Caller:
        """The caller, by a query shared by all who ask for the same key.

        Raises:
            Unauthenticated: there is no such key, or it was revoked.
            Unavailable: PostgreSQL doesn't answer.
        """
        keys.tenant_of(credential)  # what can't be a key costs no query
        digest = keys.digest(credential)
        task = self._asked.get(digest)
        if task is None:
            if len(self._asked) >= MAX_QUESTIONS:
                raise Overloaded("too many unknown API keys at once; try again", retry_after_s=1.0)
            task = self._asked[digest] = loop.create_task(self._ask(digest, loop))
            task.add_done_callback(lambda done: self._asked_done(digest, done))
        caller = await asyncio.shield(task)
        if caller is None:
            raise _unknown()
        return caller

    async def _ask(self, digest: bytes, loop: asyncio.AbstractEventLoop) -> Caller | None:
        forgotten = self._forgotten
        grant = await keys.find(self._database, digest)
        caller = None if grant is None else Caller.of(grant, self._limits_of(grant))
        if forgotten == self._forgotten:
            self._cache.put(digest, caller, loop.time())
        return caller

    def _asked_done(self, digest: bytes, task: asyncio.Task[Caller | None]) -> None:
        self._asked.pop(digest, None)
        if not task.cancelled():
            task.exception()  # those who wait have it; nobody may be left to

    def _limits_of(self, grant: keys.Grant) -> TenantLimits:
        default = self._limits
        return TenantLimits(
            requests_per_minute=(
                default.requests_per_minute
                if grant.requests_per_minute is None
                else grant.requests_per_minute
            ),
            tokens_per_minute=(
                default.tokens_per_minute
                if grant.tokens_per_minute is None
                else grant.tokens_per_minute
            ),
            concurrency=(
                default.concurrency if grant.max_concurrency is None else grant.max_concurrency
            ),
        )


def _unknown() -> Unauthenticated:
    return Unauthenticated("this API key is unknown or was revoked; ask for a new one")
