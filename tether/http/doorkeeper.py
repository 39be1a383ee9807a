"""The doorkeeper: whose key it is, before a slot is taken or a body is read.

It asks a gateway, and remembers the answer for a short while by the key's hash. That decides only
whether a request is let in: the gateway looks at the key again with everything it is asked, so a
key that was revoked opens nothing, and when the gateway says so it is forgotten here.

Strangers, whose key was never seen here, have few look-ups: so many wait, and of those a handful
is under way, so that a crowd of them is no burst for the gateway. A key that was good before is
looked up at once, whatever strangers do.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from hashlib import blake2b
from time import monotonic
from typing import Final

from starlette.types import Scope

from actors.contracts import Authenticated
from actors.core.keycache import KeyCache
from supervision.errors import Overloaded, TetherError, Unauthenticated
from supervision.telemetry import bounds
from tether.http.gateways import Gateways
from tether.http.lobby import VISIT, Visit
from tether.http.strangers import Counter

KEYS: Final = 10_000
KNOWN_S: Final = 30.0
WRONG_KEYS: Final = 1_000
WRONG_S: Final = 1.0
LOOK_UPS: Final = 128  # of strangers at once; up to 256 KiB of each one's body have come meanwhile
LOOK_UPS_OF_NETWORK: Final = 32
AT_ONCE: Final = 4  # of them under way: some 2 ms each, so that the last of all waits 60 ms
_AT_ONCE: Final = nullcontext()

#: What a look-up came to; None is nobody's key. An error is a value here: a task that raises holds
#: it, and it, by its traceback, the task and all that waits, until the collector comes.
_Found = Authenticated | TetherError | None


class Doorkeeper:
    """Knows keys."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways
        self._cache: KeyCache[Authenticated] = KeyCache(KEYS, KNOWN_S, WRONG_S, WRONG_KEYS)
        self._asked: dict[bytes, asyncio.Task[_Found]] = {}
        self._strangers = Counter(LOOK_UPS, LOOK_UPS_OF_NETWORK)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._used = bounds.used.labels("door_key_questions")
        self._refused = bounds.refused.labels("door_key_questions")

    @property
    def questions(self) -> int:
        """Look-ups under way."""
        return len(self._asked)

    async def admit(self, scope: Scope, credential: str) -> Authenticated:
        """Whose key it is; its connection is known from now on.

        Raises:
            Unauthenticated: there is no such key, or it was revoked.
            Overloaded: too many keys that nobody has seen are looked up.
            Unavailable: no gateway answers.
        """
        digest = _digest(credential)
        known, who = self._cache.get(digest, monotonic())
        visit: Visit | None = scope.get(VISIT)
        if not known:
            found = await self._find(digest, credential, "" if visit is None else visit.network)
            if isinstance(found, TetherError):
                try:
                    raise found
                finally:
                    del found  # or it and this frame hold each other, for the collector to find
            who = found
        if who is None:
            raise Unauthenticated("this API key is unknown or was revoked; ask for a new one")
        if visit is not None and visit.stranger:
            visit.recognized()
        return who

    def forget(self, credential: str) -> None:
        """A gateway says that the key is none any more."""
        self._cache.forget(_digest(credential))

    async def _find(self, digest: bytes, credential: str, network: str) -> _Found:
        if self._cache.familiar(digest) or digest in self._asked:
            # Who waits for a question that is under way adds none: the first requests of a tenant
            # may come at once, and connections have a bound of their own.
            return await self._shared(digest, credential)
        if not self._strangers.enter(network):
            self._refused.inc()
            raise Overloaded(
                "too many API keys that were never seen are looked up; try again in a second",
                retry_after_s=1.0,
            )
        self._used.inc()
        try:
            return await self._shared(digest, credential, self._turns)
        finally:
            self._strangers.leave(network)
            self._used.dec()

    async def _shared(
        self, digest: bytes, credential: str, turns: AbstractAsyncContextManager[None] = _AT_ONCE
    ) -> _Found:
        """One question, however many wait for its answer; it waits for its turn."""
        task = self._asked.get(digest)
        if task is None:
            loop = asyncio.get_running_loop()
            task = self._asked[digest] = loop.create_task(self._ask(digest, credential, turns))
            task.add_done_callback(lambda _: self._asked.pop(digest, None))
        return await asyncio.shield(task)

    async def _ask(
        self, digest: bytes, credential: str, turns: AbstractAsyncContextManager[None]
    ) -> _Found:
        try:
            async with turns:
                who = await self._gateways.authenticate(credential)
        except Unauthenticated:
            self._cache.put(digest, None, monotonic())
            return None
        except TetherError as error:
            return error.with_traceback(None)
        self._cache.put(digest, who, monotonic())
        return who


def _digest(credential: str) -> bytes:
    """Of this process alone, and of nothing that can be guessed: a fast hash is a good one."""
    return blake2b(credential.encode(), digest_size=32).digest()
