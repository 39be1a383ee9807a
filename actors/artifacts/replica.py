"""One object store that holds artifacts: S3, GCS, Azure, or a folder.

What it gives is checked before it is handed on. A breaker keeps a replica that fails from being
asked for every block.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from actors.artifacts import digest as digests
from actors.artifacts import metrics
from supervision.errors import Unavailable
from supervision.policies.async_driver import Attempt, run
from supervision.policies.breaker import Breaker, BreakerOptions
from supervision.policies.stack import Stack
from supervision.policies.timeout import Timeout, TimeoutOptions

if TYPE_CHECKING:
    from obstore import ObjectMeta  # it is a type only

_T = TypeVar("_T")
_BREAKER: Final = BreakerOptions(calls=4, most=16, ratio=0.75, window_s=30, open_s=5, max_open_s=60)
_CONNECT: Final = timedelta(seconds=5)
_QUERY: Final = frozenset({"endpoint", "region", "credentials"})
_SENTENCE: Final = 200  # characters of what a store says
_S3_ERROR: Final = re.compile(r"<Code>([^<]*)</Code>(?:<Message>([^<]*)</Message>)?")


class FaultKind(StrEnum):
    """What is wrong with a replica, or with what it has."""

    MISSING = "missing"  # it has no such object
    CORRUPT = "corrupt"  # it has one, with other bytes than its name says
    UNREACHABLE = "unreachable"  # it does not answer, not in time, or not to us


class ReplicaFault(Unavailable):
    """A replica could not do what it was asked; `fault` says which way."""

    def __init__(self, replica: str, fault: FaultKind, sentence: str) -> None:
        super().__init__(sentence)
        self.replica = replica
        self.fault = fault


class ListedObject(NamedTuple):
    """An object that a replica lists."""

    path: str
    size: int
    modified: datetime


class Replica:
    """A store by its URL. `name` says which one, and shows no secret. Opened when it
    is first used: a store that is away must not keep the others from being asked."""

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        self._url = url
        self.name = _name(url)
        self._store: ObjectStore | None = None
        self._stack = Stack(Breaker(_BREAKER), Timeout(TimeoutOptions(attempt_s=timeout_s)))
        self._timeout = timedelta(seconds=timeout_s)

    def __repr__(self) -> str:
        return f"Replica({self.name!r})"

    async def get(
        self, path: str, *, most: int, digest: str | None = None, size: int | None = None
    ) -> bytes | memoryview:
        """The object at `path`, of `size` bytes (at most `most`) and with `digest`, if given.

        Raises:
            ReplicaFault: it is missing, is another one, or the replica can't be reached.
        """

        # What is missing or damaged is returned: the replica answers, so its breaker stays closed.
        async def read(_attempt: Attempt) -> memoryview | ReplicaFault:
            store = self._opened()
            try:
                found = await obstore.get_async(store, path)
            except FileNotFoundError:
                return self._fault(FaultKind.MISSING, f"{path} is missing")
            length = found.meta["size"]
            if length > most or (size is not None and length != size):
                wanted = f"{size}" if size is not None else f"at most {most}"
                return self._fault(
                    FaultKind.CORRUPT, f"{path} has {length} bytes and should have {wanted}"
                )
            content = memoryview(await found.bytes_async())
            if digest is not None and (len(content) != length or await _digest(content) != digest):
                return self._fault(FaultKind.CORRUPT, f"{path} was changed: its digest is another")
            return content

        content = await self._call(read)
        if isinstance(content, ReplicaFault):
            raise self._counted(content)
        metrics.artifact_reads.labels(self.name, "good").inc()
        return content

    async def size(self, path: str) -> int | None:
        """Bytes of the object at `path`; None if there is none.

        Raises:
            ReplicaFault: the replica can't be reached.
        """

        found = await self._head(path)
        return None if found is None else found["size"]

    async def modified(self, path: str) -> datetime | None:
        """When the object at `path` was written, by the store's clock; None if there is none.

        Raises:
            ReplicaFault: the replica can't be reached.
        """
        found = await self._head(path)
        return None if found is None else found["last_modified"]

    async def put(self, path: str, content: digests.Content, *, overwrite: bool = False) -> bool:
        """Write an object whole; False if there is one, unless it may be overwritten.

        Raises:
            ReplicaFault: it was not written.
        """

        async def write(_attempt: Attempt) -> bool:
            try:
                await obstore.put_async(
                    self._opened(),
                    path,
                    content,
                    mode="overwrite" if overwrite else "create",
                    use_multipart=False,  # which knows no "create"
                )
            except AlreadyExistsError:
                return False
            return True

        return await self._call(write)

    async def delete(self, path: str) -> None:
        """Remove an object; one that is gone already is fine.

        Raises:
            ReplicaFault: it could not be removed.
        """

        async def remove(_attempt: Attempt) -> None:
            store = self._opened()
            with suppress(FileNotFoundError):
                await obstore.delete_async(store, path)

        await self._call(remove)

    async def listed(self, prefix: str) -> AsyncIterator[ListedObject]:
        """All objects below `prefix`, which ends with a slash.

        Raises:
            ReplicaFault: the replica can't be reached.
        """

        async def begin(_attempt: Attempt) -> Any:
            return obstore.list(self._opened(), prefix.rstrip("/"), chunk_size=1000).__aiter__()

        chunks = await self._call(begin)

        async def following(_attempt: Attempt) -> Any:
            try:
                return await chunks.__anext__()
            except StopAsyncIteration:
                return None
            except FileNotFoundError:  # a folder that nothing was put in yet
                return None

        while (chunk := await self._call(following)) is not None:
            for item in chunk:
                yield ListedObject(item["path"], item["size"], item["last_modified"])

    async def _head(self, path: str) -> ObjectMeta | None:
        async def head(_attempt: Attempt) -> ObjectMeta | None:
            store = self._opened()
            try:
                return await obstore.head_async(store, path)
            except FileNotFoundError:
                return None

        return await self._call(head)

    def _opened(self) -> ObjectStore:
        if self._store is None:
            self._store = _open(self._url, self._timeout)
        return self._store

    async def _call(self, operation: Callable[[Attempt], Awaitable[_T]]) -> _T:
        async def attempt(number: Attempt) -> _T:
            try:
                return await operation(number)
            except ReplicaFault:
                raise
            except (BaseError, OSError, ValueError) as error:
                raise self._fault(FaultKind.UNREACHABLE, _sentence(error)) from error

        try:
            return await run(self._stack, attempt)
        except ReplicaFault as fault:
            raise self._counted(fault) from fault.__cause__
        except Unavailable as error:  # the breaker's, or the timeout's
            raise self._counted(self._fault(FaultKind.UNREACHABLE, error.message)) from None

    def _fault(self, fault: FaultKind, sentence: str) -> ReplicaFault:
        return ReplicaFault(self.name, fault, f"{self.name}: {sentence}")

    def _counted(self, fault: ReplicaFault) -> ReplicaFault:
        metrics.artifact_reads.labels(self.name, fault.fault.value).inc()
        return fault


def _name(url: str) -> str:
    base, _, query = url.partition("?")
    endpoint = dict(parse_qsl(query)).get("endpoint")
    return base.rstrip("/") + (f" at {urlsplit(endpoint).netloc}" if endpoint else "")


async def _digest(content: memoryview) -> str:
    if len(content) < 1 << 16:
        return digests.of(content)
    return await asyncio.to_thread(digests.of, content)


def _sentence(error: Exception) -> str:
    """What the store said, in a line: S3's own words if there are some, and none of the pages of
    obstore's state."""
    first = str(error).split("\n\nDebug source")[0]
    if found := _S3_ERROR.search(first):
        first = f"{found[1]}: {found[2] or 'no more is said'}"
    return " ".join(first.split())[:_SENTENCE]


def _open(url: str, timeout: timedelta) -> ObjectStore:
    """
    Raises:
        ValueError, OSError, BaseError: there is no such store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if not folder.is_dir():  # made by hand: a file system that isn't mounted stays empty
            raise FileNotFoundError(f"the folder {folder} does not exist")
        return from_url(url.partition("?")[0])
    query = dict(parse_qsl(parts.query))
    if unknown := sorted(set(query) - _QUERY):
        raise ValueError(f"{unknown[0]!r} is not known; known are {', '.join(sorted(_QUERY))}")
    options: dict[str, Any] = {}
    if parts.scheme == "s3":
        options["virtual_hosted_style_request"] = "endpoint" not in query
        if "region" in query or "endpoint" in query:
            options["region"] = query.get("region", "us-east-1")
    if "endpoint" in query:
        options["endpoint"] = query["endpoint"]
    if prefix := query.get("credentials"):
        for key in ("access_key_id", "secret_access_key", "session_token"):
            if value := os.environ.get(f"{prefix}_{key.upper()}"):
                options[key] = value
        if "secret_access_key" not in options:
            raise ValueError(f"{prefix}_ACCESS_KEY_ID and {prefix}_SECRET_ACCESS_KEY are not set")
    return from_url(
        url.partition("?")[0],
        client_options={
            "allow_http": query.get("endpoint", "").startswith("http://"),
            "connect_timeout": _CONNECT,
            "timeout": timeout,
        },
        retry_config={"max_retries": 0},  # the policies' work
        **options,
    )
