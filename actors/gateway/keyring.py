"""The keys of tenants: each looked up once, believed for a while, forgotten when told."""

from __future__ import annotations

import asyncio

from actors.core.keycache import KeyCache
from actors.gateway.admission import TenantLimits
from actors.stores import keys
from actors.stores.database import Database
from supervision.errors import Overloaded, Unauthenticated
from supervision.telemetry import bounds

PATIENCE_S = 20.0  # with PostgreSQL, at the start
CONNECTIONS = 3  # to PostgreSQL; those who ask for keys that were never seen get all but one
MAX_QUESTIONS = 1000  # look-ups at once of different keys that were never seen


class Caller:
    """Whose key it is, and what they may use. `name` is for histories, where the key itself must
    not stand; the key of an `operator` may change the registry."""

    __slots__ = ("key_id", "limits", "name", "operator", "tenant_id")

    def __init__(
        self,
        tenant_id: str,
        limits: TenantLimits,
        *,
        key_id: str = "",
        name: str = "",
        operator: bool = False,
    ) -> None:
        self.tenant_id = tenant_id
        self.limits = limits
        self.key_id = key_id
        self.name = name
        self.operator = operator

    @classmethod
    def of(cls, grant: keys.Grant, limits: TenantLimits) -> Caller:
        """Who has this grant."""
        name = f"key {grant.key_id} of {grant.tenant_id}"
        return cls(grant.tenant_id, limits, key_id=grant.key_id, name=name, operator=grant.operator)


class Keyring:
    """Keys by their SHA-256. Many requests with one new key cost one query.

    A key that was good before is looked up on a connection that no other key may take: the
    look-up of a tenant who is known waits behind no stranger's. Of each limit callers get `share`.
    """

    def __init__(
        self,
        dsn: str,
        limits: TenantLimits,
        *,
        bound: int,
        present_s: float,
        absent_s: float,
        share: float = 1.0,
    ) -> None:
        self._dsn = dsn
        self._database = Database(dsn, size=CONNECTIONS)
        self._limits = limits
        self._share = share
        self._cache: KeyCache[Caller] = KeyCache(bound, present_s, absent_s)
        self._asked: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._strangers = 0  # of these; the others are bounded by the cache
        self._lane = asyncio.Semaphore(CONNECTIONS - 1)
        self._refused = bounds.refused.labels("gateway_key_questions")
        self._forgotten = 0  # how often, so that a look-up under way isn't believed afterwards

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def questions(self) -> int:
        """Look-ups under way of keys that were never seen."""
        return self._strangers

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
            tenant=self._forget_tenant,
            everything=lambda: self._forget(None),
        )

    def _forget(self, digest: bytes | None) -> None:
        self._forgotten += 1
        self._cache.forget(digest)

    def _forget_tenant(self, tenant_id: str) -> None:
        self._forgotten += 1
        self._cache.forget_group(tenant_id)

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
            familiar = self._cache.familiar(digest)
            if not familiar and self._strangers >= MAX_QUESTIONS:
                self._refused.inc()
                raise Overloaded("too many unknown API keys at once; try again", retry_after_s=1.0)
            question = self._ask(digest, loop) if familiar else self._ask_in_turn(digest, loop)
            self._strangers += not familiar
            task = self._asked[digest] = loop.create_task(question)
            task.add_done_callback(lambda done: self._asked_done(digest, done, familiar=familiar))
        caller = await asyncio.shield(task)
        if caller is None:
            raise _unknown()
        return caller

    async def _ask_in_turn(self, digest: bytes, loop: asyncio.AbstractEventLoop) -> Caller | None:
        async with self._lane:
            return await self._ask(digest, loop)

    async def _ask(self, digest: bytes, loop: asyncio.AbstractEventLoop) -> Caller | None:
        forgotten = self._forgotten
        grant = await keys.find(self._database, digest)
        caller = None if grant is None else Caller.of(grant, self._limits_of(grant))
        if forgotten == self._forgotten:
            group = "" if caller is None else caller.tenant_id
            self._cache.put(digest, caller, loop.time(), group)
        return caller

    def _asked_done(
        self, digest: bytes, task: asyncio.Task[Caller | None], *, familiar: bool
    ) -> None:
        self._asked.pop(digest, None)
        self._strangers -= not familiar
        if not task.cancelled():
            task.exception()  # those who wait have it; nobody may be left to

    def _limits_of(self, grant: keys.Grant) -> TenantLimits:
        default, share = self._limits, self._share
        requests, tokens = grant.requests_per_minute, grant.tokens_per_minute
        most = default.concurrency if grant.max_concurrency is None else grant.max_concurrency
        return TenantLimits(
            requests_per_minute=share
            * (default.requests_per_minute if requests is None else requests),
            tokens_per_minute=share * (default.tokens_per_minute if tokens is None else tokens),
            concurrency=most and max(1, int(most * share)),
        )


def _unknown() -> Unauthenticated:
    return Unauthenticated("this API key is unknown or was revoked; ask for a new one")
