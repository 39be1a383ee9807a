"""What a connection and its requests leave behind goes at once, and not when the collector comes.

A request that fails made a cycle (its error holds the frames that it went through, and one of them
held the error), so a crowd of strangers cost a pause of 30 ms for everybody, every second.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.garbage import garbage
from tests.support.http_server import KEY, Served, served
from tests.support.raw_http import Raw, chat, request
from tests.support.waiting import PATIENCE_S, until

CHAT = "/v1/chat/completions"
OURS = {"DoorCycle", "DoorProtocol", "Envelope", "Exchange", "HttpCaller", "Infer", "Visit"}
TIMES = 20

BEARER = {"authorization": f"Bearer {KEY}"}
CASES = {
    "answered": request("POST", CHAT, chat("a b"), **BEARER),
    "streamed": request("POST", CHAT, chat("a b", stream=True), **BEARER),
    "in a while": request("POST", CHAT, chat("a delay=20", max_tokens=5), **BEARER),
    "unknown key": request("POST", CHAT, chat("a"), authorization="Bearer tether-acme-wrong"),
    "no key": request("POST", CHAT, chat("a"), authorization="Basic x"),
    "bad json": request("POST", CHAT, b"{", **BEARER),
    "unknown model": request("POST", CHAT, chat("a", model="none"), **BEARER),
    "limited": request("POST", CHAT, chat("a"), authorization="Bearer tether-limited-secret"),
    "a bug": request("POST", CHAT, chat("bug"), **BEARER),
    "too slow": request("POST", CHAT, chat("hold"), x_request_timeout_s="0.001", **BEARER),
    "no such path": request("GET", "/none", b"", **BEARER),
    "no HTTP": b"nonsense\r\n\r\n",
    "half a head": b"GET / HT",
}


async def once(door: Served, sent: bytes) -> None:
    """One request on a connection of its own, and its end."""
    async with await Raw.open(door.port) as raw:
        raw.write(sent)
        if sent.endswith(b"HT"):
            return
        with contextlib.suppress(asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                await raw.answer()


@pytest.mark.parametrize("case", CASES)
async def test_nothing_is_left_for_the_collector(case: str) -> None:
    async with served() as door:
        for _ in range(3):  # what is made once is made
            await once(door, CASES[case])
        await until(lambda: not len(door.server.lobby))
        with garbage() as left:
            for _ in range(TIMES):
                await once(door, CASES[case])
            await until(lambda: not len(door.server.lobby))
    assert not {name: count for name, count in left.items() if name in OURS}
