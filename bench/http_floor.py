"""The floor of `bench http`: two bare processes, uvicorn and a Unix socket, no logic.

The front passes a few bytes for each request over one connection to the back, which answers
with the same tokens that the echo engine makes: all at once, or 10 ms apart. Nothing is parsed,
checked, counted or kept. `python -m bench.http_floor PORT` runs both until it is ended.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import subprocess
import sys
from typing import Any

import uvicorn
import uvloop

_HEAD = struct.Struct("<IIB")  # length of what follows the length, number of the request, last
_PART = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"echo","choices":'
    b'[{"index":0,"delta":{"content":"word "},"logprobs":null,"finish_reason":null}]}\n\n'
)
_WHOLE = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"echo","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"word word word word word word word word "},'
    b'"finish_reason":"length"}],"usage":{"prompt_tokens":8,"completion_tokens":8,'
    b'"total_tokens":16}}'
)
_JSON = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_WHOLE))]
_EVENTS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class Frames(asyncio.Protocol):
    """Frames over a stream, written once per turn of the loop."""

    def __init__(self, arrived: Any, lost: asyncio.Event) -> None:
        self.arrived = arrived
        self.buffer = b""
        self.out: list[bytes] = []
        self.lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at, end = 0, len(buffer)
        while end - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "little")
            if end - at < 4 + size:
                break
            _, number, last = _HEAD.unpack_from(buffer, at)
            self.arrived(self, number, last, buffer[at + _HEAD.size : at + 4 + size])
            at += 4 + size
        self.buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def send(self, number: int, last: int, payload: bytes) -> None:
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(_HEAD.pack(len(payload) + 5, number, last) + payload)

    def flush(self) -> None:
        self.transport.write(b"".join(self.out))
        self.out.clear()


async def back(end: socket.socket) -> None:
    """Answers b"u" with 8 tokens, b"b" with 64 at once, b"p" with 64 that are 10 ms apart."""
    tasks: set[asyncio.Task[None]] = set()

    async def stream(frames: Frames, number: int, pause: float) -> None:
        for token in range(64):
            frames.send(number, token == 63, b"word ")
            await asyncio.sleep(pause)

    def arrived(frames: Frames, number: int, _: int, payload: bytes) -> None:
        if payload == b"u":
            frames.send(number, 1, b"word " * 8)
            return
        task = asyncio.get_running_loop().create_task(
            stream(frames, number, 0.01 if payload == b"p" else 0)
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    left = asyncio.Event()
    await asyncio.get_running_loop().create_unix_connection(lambda: Frames(arrived, left), sock=end)
    await left.wait()  # it ends with the front, however that ends


async def front(port: int, end: socket.socket) -> None:
    """uvicorn with one plain ASGI function."""
    numbers = itertools.count()
    queues: dict[int, asyncio.Queue[int]] = {}

    def arrived(_: Frames, number: int, last: int, payload: bytes) -> None:
        queues[number].put_nowait(last)

    loop = asyncio.get_running_loop()
    _, frames = await loop.create_unix_connection(
        lambda: Frames(arrived, asyncio.Event()), sock=end
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        stream = body.get("stream")
        kind = b"u" if not stream else b"p" if "delay" in body["messages"][-1]["content"] else b"b"
        number = next(numbers) & 0xFFFFFFFF
        queue = queues[number] = asyncio.Queue()
        frames.send(number, 1, kind)
        try:
            last = await queue.get()
            head = _EVENTS if stream else _JSON
            await send({"type": "http.response.start", "status": 200, "headers": head})
            if not stream:
                await send({"type": "http.response.body", "body": _WHOLE})
                return
            while not last:
                await send({"type": "http.response.body", "body": _PART, "more_body": True})
                last = await queue.get()
            await send({"type": "http.response.body", "body": _PART + b"data: [DONE]\n\n"})
        finally:
            del queues[number]

    config = uvicorn.Config(
        app, port=port, log_level="error", access_log=False, lifespan="off", ws="none",
        http="httptools", loop="none", proxy_headers=False, server_header=False,
    )  # fmt: skip
    await uvicorn.Server(config).serve()


def main() -> None:
    if sys.argv[1] == "back":
        uvloop.run(back(socket.socket(fileno=int(sys.argv[2]))))
        return
    near, far = socket.socketpair()
    subprocess.Popen(
        [sys.executable, "-m", "bench.http_floor", "back", str(far.fileno())],
        pass_fds=[far.fileno()],
    )
    far.close()
    uvloop.run(front(int(sys.argv[1]), near))


if __name__ == "__main__":
    main()
