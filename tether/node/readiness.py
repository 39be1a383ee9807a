"""Asking a front door whether models answer, with nothing but a socket; or a roster."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from actors.runtime import Address, Endpoint
from tether.contracts import Fleet, WatchFleet
from tether.errors import TetherError

_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1 << 20


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
    except msgspec.MsgspecError:
        return ()


async def models_here(endpoint: Endpoint, roster: str | None) -> tuple[str, ...]:
    """The models that workers of the endpoint's own node answer for; none without a roster."""
    if roster is None:
        return ()
    here = endpoint.address.node
    fleet = endpoint.stream(roster, WatchFleet())
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            async for told in fleet:
                assert isinstance(told, Fleet)
                own = [w for w in told.workers if Address.parse(w.address).node == here]
                return tuple({ref for worker in own for ref in worker.models})
    except (TetherError, TimeoutError):
        pass
    return ()


def _reachable(host: str) -> str:
    """Where to connect for what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
