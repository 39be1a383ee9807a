"""HTTP/1.1 by hand, for what no client library would send, or would hide."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Self

from tests.support.http_server import KEY


class Raw:
    """One connection. `async with await Raw.open(port) as raw`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def open(
        cls, port: int, *, limit: int = 1 << 16, tls: ssl.SSLContext | None = None
    ) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit, ssl=tls))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, path: str, body: Any, **headers: str) -> None:
        self.write(request("POST", path, body, **headers))

    async def head(self) -> int:
        """Reads a head; the status."""
        line, *lines = (
            (await self.reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        )
        self.status = int(line.split()[1])
        self.headers = {
            name.lower(): value for name, value in (item.split(": ", 1) for item in lines)
        }
        return self.status

    async def parts(self) -> AsyncIterator[bytes]:
        """The chunks of a body as they come; raises IncompleteReadError if it is cut."""
        if self.headers.get("transfer-encoding") != "chunked":
            yield await self.reader.readexactly(int(self.headers.get("content-length", 0)))
            return
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            part = (await self.reader.readexactly(size + 2))[:-2]
            if not size:
                return
            yield part

    async def body(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def answer(self) -> tuple[int, Any]:
        """Status and body of an answer, decoded if it is JSON."""
        status = await self.head()
        body = await self.body()
        if self.headers.get("content-type") == "application/json":
            return status, json.loads(body)
        return status, body

    async def closed(self) -> bool:
        """Whether the server closes the connection without another byte."""
        return await self.reader.read(1) == b""


class Said(NamedTuple):
    """One answer, as a strict client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes


def answers(data: bytes, *methods: str) -> list[Said]:
    """The answers in `data`, to requests of these methods (GET, unless told), interim ones too.

    Raises:
        ValueError: it isn't HTTP/1.1 from its first byte to its last.
    """
    found: list[Said] = []
    final = 0
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        version, number, _ = line.split(" ", 2)
        headers = {name.lower(): value for name, value in (item.split(": ", 1) for item in lines)}
        status = int(number)
        if not end or version != "HTTP/1.1":
            raise ValueError(f"no head of an answer: {head[:200]!r}")
        head_only = methods[final : final + 1] == ("HEAD",)
        final += status >= 200
        if status < 200 or status in (204, 304) or head_only:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body, data = _chunks(data)
        elif "content-length" in headers:
            size = int(headers["content-length"])
            body, data = data[:size], data[size:]
            if len(body) < size:
                raise ValueError(f"a body of {size} bytes was cut after {len(body)}")
        else:
            body, data = data, b""
            if headers.get("connection") != "close":
                raise ValueError("nobody knows where the answer ends")
        found.append(Said(status, headers, body))
    return found


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not end or data[size : size + 2] != b"\r\n":
            raise ValueError("a chunk was cut")
        body, data = body + data[:size], data[size + 2 :]
        if not size:
            return body, data


async def talk(port: int, *pieces: bytes, shut: bool = False, pause_s: float = 0.01) -> bytes:
    """All that is said to `pieces` until the server closes; they are sent apart, whether or not an
    answer is there, and with `shut` nothing is sent after them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        said = asyncio.create_task(reader.read())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(pause_s)
        if shut:
            writer.write_eof()
        return await said
    finally:
        writer.close()


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of a request; a key is added unless headers have one, and `None` leaves out."""
    content = b"" if body is None else body if isinstance(body, bytes) else _json(body)
    fields = {"host": "t", "authorization": f"Bearer {KEY}", "content-length": str(len(content))}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


async def call(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request on a connection of its own: status, headers, body."""
    async with await Raw.open(port) as raw:
        raw.write(request(method, path, body, **headers))
        status, content = await raw.answer()
        return status, raw.headers, content


def chat(text: str, tokens: int = 4, **fields: Any) -> dict[str, Any]:
    """A chat body."""
    messages = [{"role": "user", "content": text}]
    return {"model": "echo", "messages": messages, "max_tokens": tokens, **fields}


def said(stream: bytes) -> str:
    """The text of a chat stream's events."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in events(stream)
        if event != "[DONE]"
        for choice in event.get("choices", ())
    )


def events(stream: bytes) -> list[Any]:
    """The events of a stream; "[DONE]" as itself."""
    lines = [line[6:] for line in stream.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
