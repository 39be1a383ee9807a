"""The store of limits: a Redis or Valkey, where all gateways add up what a tenant uses.

What it does is one function on the server (`limits.lua`), so that each order is done whole or not
at all. Orders go in batches, one round trip each. It holds nothing that money depends on: whoever
finds it away, hanging or talking nonsense gets `StoreAway`, and goes on without it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from actors.stores.limit_orders import (
    BucketOrder,
    BucketReply,
    PermitReply,
    TenantOrder,
    TenantReply,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

SCHEMES: Final = ("redis", "rediss", "unix")
SCRIPT: Final = resources.files("actors.stores").joinpath("limits.lua").read_bytes()
_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # as Redis names scripts
_PREFIX: Final = "tether"
_EPOCH: Final = "epoch"
_PARTS: Final = 7  # of an answer
_TIMEOUT_S: Final = 0.5
_SANE: Final = 1e18  # no amount of a bucket is larger


class StoreAway(Exception):
    """The store can't be used now; `why` is one word of a metric, the sentence is for a log."""

    def __init__(self, why: str, sentence: str) -> None:
        super().__init__(sentence)
        self.why = why


class LimitStoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store is. `url` is `redis://`, `rediss://` (TLS, verified against `ca`, a PEM file,
    or the system's authorities) or `unix:///path`; empty: there is none. The password is in
    `password_file`, which its owner alone may read, unless the URL has one. `cluster` tells the
    keys of one cluster from those of others at the same server.

    Raises:
        ValueError: the URL is none of these.
    """

    url: str = ""
    password_file: str = ""
    ca: str = ""
    cluster: str = "tether"

    def __post_init__(self) -> None:
        if self.url and urlsplit(self.url).scheme not in SCHEMES:
            raise ValueError(f"redis.url must begin with one of {', '.join(SCHEMES)}, and ://")


def without_secret(url: str) -> str:
    """The URL as a log may show it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class LimitStore:
    """One connection to the store, made when it is needed.

    Args:
        gateway: what this one is called there; unlike all others'.
        permits_s: how long its permits live if it says nothing.
    """

    def __init__(self, options: LimitStoreOptions, gateway: str, permits_s: float) -> None:
        self._options = options
        self._gateway = gateway
        self._permits_s = permits_s
        self._epoch = ""
        self._redis: Redis | None = None
        self._prefix = f"{_PREFIX}:{quote(options.cluster, safe='')}"

    @property
    def place(self) -> str:
        """Where it is, for logs."""
        return without_secret(self._options.url)

    async def open(self) -> None:
        """See that the store answers, and knows what to do.

        Raises:
            StoreAway: it doesn't.
        """
        try:
            if await self._connected().script_load(SCRIPT.decode()) != _SHA:
                raise StoreAway("nonsense", f"{self.place} loads a script as another one")
        except StoreAway:
            raise
        except Exception as error:
            raise self._away(error) from error

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        connection, self._redis = self._redis, None
        if connection is not None:
            await connection.aclose()

    async def do(self, orders: Sequence[TenantOrder]) -> list[TenantReply]:
        """The answers to `orders`, each done whole.

        Raises:
            StoreAway: some may not be done, and nobody knows which.
        """
        import redis.exceptions

        try:
            answers = await self._send(orders)
            if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
                # All of a pipeline after FLUSHALL or a restart; whatever was done has an answer.
                await self.open()
                again = [
                    number
                    for number, answer in enumerate(answers)
                    if isinstance(answer, redis.exceptions.NoScriptError)
                ]
                for number, answer in zip(
                    again, await self._send([orders[n] for n in again]), strict=True
                ):
                    answers[number] = answer
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return [self._read(answer) for answer in answers]
        except StoreAway:
            raise
        except Exception as error:  # of nonsense the client's parser may make anything
            raise self._away(error) from error

    async def _send(self, orders: Sequence[TenantOrder]) -> list[Any]:
        fresh = secrets.token_hex(8)
        async with self._connected().pipeline(transaction=False) as pipeline:
            for order in orders:
                pipeline.evalsha(
                    _SHA,
                    2,
                    f"{self._prefix}:limits:{order.tenant_id}",
                    f"{self._prefix}:{_EPOCH}",
                    self._gateway,
                    self._permits_s,
                    self._epoch,
                    fresh,
                    order.requests_limit,
                    *_fields(order.requests),
                    order.tokens_limit,
                    *_fields(order.tokens),
                    *order.permits,
                )
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if len(answers) != len(orders):
            raise ValueError(f"{len(answers)} answers to {len(orders)} orders")
        return answers

    def _read(self, answer: Any) -> TenantReply:
        if not isinstance(answer, list) or len(answer) != _PARTS:
            raise ValueError(f"it answers {str(answer)[:80]!r}")
        requests, requests_left, tokens, tokens_left = map(float, answer[1:5])
        held, total = map(int, answer[5:])
        amounts = (requests, requests_left, tokens, tokens_left)
        if not all(-_SANE < amount < _SANE for amount in amounts) or min(held, total) < 0:
            raise ValueError(f"it answers {str(answer)[:80]!r}")
        self._epoch = bytes(answer[0]).decode("ascii")
        return TenantReply(
            BucketReply(requests, requests_left),
            BucketReply(tokens, tokens_left),
            PermitReply(held, total),
        )

    def _connected(self) -> Redis:
        if self._redis is None:
            self._redis = _client(self._options)
        return self._redis

    def _away(self, error: Exception) -> StoreAway:
        import redis.exceptions as known

        if isinstance(error, known.TimeoutError):
            why = "hangs"
        elif isinstance(error, known.ConnectionError | OSError):
            why = "gone"
        elif isinstance(error, known.ResponseError):
            why = "refuses"
        else:
            why = "nonsense"
        said = str(error)[:200] or type(error).__name__
        return StoreAway(why, f"the store of limits at {self.place} can't be used: {said}")


def _fields(order: BucketOrder) -> tuple[str, ...]:
    """As the script reads them: never 1e+20, which Lua would read, and never "nan"."""
    hint = "" if order.hint is None else f"{order.hint:.6f}"
    return f"{order.delta:.6f}", f"{order.least:.6f}", f"{order.most:.6f}", hint


def _client(options: LimitStoreOptions) -> Redis:
    """
    Raises:
        OSError: the password can't be read.
    """
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    more: dict[str, Any] = {}
    parts = urlsplit(options.url)
    if options.password_file and not parts.password:
        more["password"] = Path(options.password_file).read_text("utf-8").strip()
    if parts.scheme == "rediss":
        more["ssl_cert_reqs"] = "required"
        more["ssl_check_hostname"] = True
        if options.ca:
            more["ssl_ca_certs"] = options.ca
    return Redis.from_url(
        options.url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=2,
        protocol=2,
        decode_responses=False,
        **more,
    )
