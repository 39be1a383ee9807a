"""Readiness checks: a front door asked for its models with nothing but a socket, or a roster."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec

from actors.contracts import Catalog, Fleet, HealthReport, WatchCatalog, WatchFleet
from supervision.contracts import Contract
from supervision.errors import TetherError
from supervision.runtime import Address, Endpoint
from supervision.unreadable import UNREADABLE

_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_C = TypeVar("_C", bound=Contract)


class _Ready(msgspec.Struct):
    models: tuple[str, ...] = ()


async def ready_models(host: str, port: int) -> tuple[str, ...]:
    """The models that answer according to `/readyz`; none when nobody listens yet."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(_reachable(host), port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: tether\r\nConnection: close\r\n\r\n")
                answer = await reader.read(_MAX_BYTES)
                while more := await reader.read(_MAX_BYTES):
                    answer += more
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ()
    _, _, body = answer.partition(b"\r\n\r\n")
    try:
        return msgspec.json.decode(body, type=_Ready).models
    except UNREADABLE:
        return ()


async def models_here(endpoint: Endpoint, roster: str | None) -> tuple[str, ...]:
    """The models that workers of the endpoint's own node answer for; none without a roster."""
    return tuple({ref for worker in await _workers(endpoint, roster) for ref in worker.models})


async def excused(endpoint: Endpoint, roster: str | None, registry: str | None) -> Excused:
    """What need not answer for the node to be ready."""
    catalog = await _first(endpoint, registry, WatchCatalog(), Catalog)
    workers = await _workers(endpoint, roster)
    return Excused(
        offered=None if catalog is None else frozenset(card.ref for card in catalog.models),
        loadable=frozenset(ref for worker in workers for ref in worker.loadable),
        warm=frozenset(ref for worker in workers for ref in worker.models),
        settled=sum(bool(w.models or w.loadable) and not w.loading for w in workers),
    )


class Excused(msgspec.Struct, frozen=True):
    """`offered` are the refs of the catalog, None if it isn't known; `loadable` those that a worker
    of this node would load when asked, and has no room for now; `warm` those that they answer for.
    `settled` workers have something to answer with, and load nothing: what they don't answer for by
    then can't be had."""

    offered: frozenset[str] | None
    loadable: frozenset[str]
    warm: frozenset[str]
    settled: int

    def of(self, ref: str) -> bool:
        """Is it retired, or not loaded for want of room?"""
        return ref in self.loadable or (self.offered is not None and ref not in self.offered)


async def _workers(endpoint: Endpoint, roster: str | None) -> list[HealthReport]:
    fleet = await _first(endpoint, roster, WatchFleet(), Fleet)
    here = endpoint.address.node
    workers = () if fleet is None else fleet.workers
    return [worker for worker in workers if Address.parse(worker.address).node == here]


async def _first(
    endpoint: Endpoint, address: str | None, opening: Contract, kind: type[_C]
) -> _C | None:
    """The first item of a stream; None where nobody says it."""
    if address is None:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            async for told in endpoint.stream(address, opening):
                return told if isinstance(told, kind) else None
    except (TetherError, TimeoutError):
        pass
    return None


def _reachable(host: str) -> str:
    """Where to connect for what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
