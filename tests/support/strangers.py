"""Strangers who hold on to what they can get of a front door, in a process of their own.

    python -m tests.support.strangers PORT --half 2000 --slow 2000 --seconds 60 --addresses 8

`--half` of them send the head of a request with a made-up key and some of its body, and then
nothing; `--slow` send a head, one byte a second. Who is sent away comes back after `RENEW_S` or so.
They come from as many loopback addresses as said. Prints "all", when all of them have come once,
and `--seconds` later one JSON object: how often they came, and which answers they got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
from collections import Counter
from typing import Any, Final

import uvloop

RENEW_S: Final = 5.0
BODY: Final = 4 << 20
HALF: Final = b"[" * (64 << 10)
SLOW: Final = b"POST /v1/chat/completions HTTP/1.1\r\nhost: tether\r\nx-padding: " + b"a" * 4096


class Stranger(asyncio.Protocol):
    """One of them, while its connection lasts."""

    def __init__(self, seen: Counter[str], *, half: bool) -> None:
        self._seen = seen
        self._half = half
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._seen["came"] += 1
        if self._half:
            key = f"tether-acme-{secrets.token_urlsafe(32)}"
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nhost: tether\r\n"
                f"authorization: Bearer {key}\r\ncontent-length: {BODY}\r\n\r\n"
            )
            transport.write(head.encode() + HALF)
        else:
            self._another_byte()

    def _another_byte(self) -> None:
        self._transport.write(SLOW[self._sent : self._sent + 1])
        self._sent += 1
        self._timer = asyncio.get_running_loop().call_later(1.0, self._another_byte)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self._seen[data[9:12].decode()] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.gone.done():
            self.gone.set_result(None)


async def come(
    port: int, address: str, seen: Counter[str], *, half: bool, met: asyncio.Event
) -> None:
    """Again and again, until cancelled; `met` is set once it has come, or couldn't."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(random.uniform(0, RENEW_S))
    while True:
        try:
            transport, stranger = await loop.create_connection(
                lambda: Stranger(seen, half=half), "127.0.0.1", port, local_addr=(address, 0)
            )
        except OSError:
            seen["no connection"] += 1
            met.set()
        else:
            met.set()
            try:
                await stranger.gone
            finally:
                transport.abort()
        await asyncio.sleep(random.uniform(0.5, 1.5) * RENEW_S)


async def crowd(options: argparse.Namespace) -> None:
    seen: Counter[str] = Counter()
    met = [asyncio.Event() for _ in range(options.half + options.slow)]
    addresses = [f"127.0.0.{number + 1}" for number in range(options.addresses)]
    tasks = [
        asyncio.create_task(
            come(
                options.port, addresses[number % len(addresses)], seen,
                half=number < options.half, met=one,
            )
        )
        for number, one in enumerate(met)
    ]  # fmt: skip
    for one in met:
        await one.wait()
    print("all", flush=True)
    await asyncio.sleep(options.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(json.dumps(seen), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--half", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--addresses", type=int, default=8)
    os.nice(10)  # what they do is not what is measured
    uvloop.run(crowd(parser.parse_args()))


if __name__ == "__main__":
    main()
