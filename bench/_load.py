"""A load client for HTTP/1.1: keep-alive connections over raw protocols, parsed by httptools.

Runs in a process of its own and prints one JSON object: what it saw. Latencies are in ms.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from typing import Any

import httptools
import uvloop


class Connection(asyncio.Protocol):
    """Sends the same request again and again, each after the answer to the one before."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: Any = None
        self.parser: Any = None
        self.began = 0.0
        self.first = 0.0
        self.tail = b""
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        if self.load.closing:
            self.transport.close()
            return
        self.parser = httptools.HttpResponseParser(self)
        self.began, self.first, self.tail, self.busy = time.perf_counter(), 0.0, b"", True
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.first:
            self.first = time.perf_counter()
        self.tail = (self.tail + body)[-16:] if len(body) < 16 else body[-16:]

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        good = self.parser.get_status_code() == 200 and self.tail.endswith(self.load.ending)
        self.busy = False
        self.load.answered(now, now - self.began, self.first - self.began, good)
        asyncio.get_running_loop().call_soon(self.send)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.load.errors += 1
        self.load.lost()


class Load:
    """`in_flight` connections for `warm_s` and then `seconds` that count."""

    def __init__(self, request: bytes, ending: bytes, in_flight: int) -> None:
        self.request = request
        self.ending = ending
        self.open = in_flight
        self.closing = False
        self.counting = False
        self.errors = 0
        self.took: list[float] = []
        self.firsts: list[float] = []
        self.done = asyncio.Event()

    def answered(self, now: float, took: float, first: float, good: bool) -> None:
        if not good:
            self.errors += 1
        elif self.counting:
            self.took.append(took)
            self.firsts.append(first)

    def lost(self) -> None:
        self.open -= 1
        if not self.open:
            self.done.set()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    load = Load(
        base64.b64decode(options.request), base64.b64decode(options.ending), options.in_flight
    )
    loop = asyncio.get_running_loop()
    for _ in range(options.in_flight):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", options.port)
    await asyncio.sleep(options.warm_s)
    print("counting", flush=True)  # whoever started us reads the clocks of the servers now
    load.counting = True
    began, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(options.seconds)
    load.counting = False
    seconds, used = time.perf_counter() - began, time.process_time() - used
    print("counted", flush=True)
    load.closing = True
    async with asyncio.timeout(30):
        await load.done.wait()
    took, firsts = sorted(load.took), sorted(load.firsts)
    count = len(took)
    return {
        "requests": count,
        "per_s": round(count / seconds, 1),
        "p50_ms": percentile(took, 0.5),
        "p99_ms": percentile(took, 0.99),
        "first_chunk_ms": percentile(firsts, 0.5),
        "errors": load.errors,
        "client_cpu_ms": round(used * 1000 / max(count, 1), 3),
    }


def percentile(values: list[float], share: float) -> float:
    """In milliseconds; nan for nothing."""
    if not values:
        return float("nan")
    return round(values[min(len(values) - 1, int(len(values) * share))] * 1000, 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--request", required=True, help="base64")
    parser.add_argument("--ending", default="", help="base64 of how a good body ends")
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--warm-s", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    print(json.dumps(uvloop.run(run(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
