"""The messages between a worker and the process of its engine.

Frames on a socket pair: a length (4 bytes, big-endian), then MessagePack: from the worker one
order, from the engine's process a list of what came of them. The pair has two ends and no
name, so nobody else can speak.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from actors.contracts import Finish, Input, ModelCard, Sampling
from actors.engines.engine import Reuse
from supervision.errors import ProtocolError

MOST_BYTES = 64 << 20  # of a frame: a prompt of several million tokens
NAME = "TETHER_ENGINE_NAME"  # in the environment: the process of the engine calls itself so
_SIZE = 4


class HostOrder(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Worker → engine's process. `id` names a request."""


class OpenEngine(HostOrder, frozen=True):
    """Comes first, and once: load this. `cache_dir` and the rest are `EngineOptions`."""

    card: ModelCard
    cache_dir: str
    slots: int
    threads: int
    queue: int
    prefill_tokens: int
    prefix_bytes: int = 0


class Tokenize(HostOrder, frozen=True):
    """Answered by `Tokenized` or `Failed`."""

    id: int
    input: Input


class Compute(HostOrder, frozen=True):
    """Answered by `Said`, the last of which has a finish, or `Failed`."""

    id: int
    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...]
    sampling: Sampling
    scope: str = ""


class Drop(HostOrder, frozen=True):
    """Nobody waits for this any more."""

    id: int


class Quit(HostOrder, frozen=True):
    """Let go of the model and end."""


class News(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine's process → worker."""


class Opened(News, frozen=True):
    """The model is loaded; the fields of `Capabilities`."""

    resume: str
    tag: str
    context: int
    chat: bool
    embeds: bool = False


class Tokenized(News, frozen=True):
    id: int
    token_ids: tuple[int, ...]


class Said(News, frozen=True):
    """A `Delta`."""

    id: int
    token_ids: tuple[int, ...]
    text: str
    finish: Finish | None = None


class Failed(News, frozen=True):
    """A `TetherError`; `id` 0 means that the model could not be loaded."""

    id: int
    code: str
    message: str
    retry_after_s: float | None = None
    param: str | None = None


class Pulse(News, frozen=True):
    """Every second, whatever else is said: a `Snapshot`, how long each step took since the
    last pulse, and the memory of the process."""

    running: int = 0
    queued: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    memory_bytes: int = 0
    fault: str = ""
    step_s: tuple[float, ...] = ()
    resident_bytes: int = 0
    reuse: Reuse = Reuse()


AnyOrder = OpenEngine | Tokenize | Compute | Drop | Quit
AnyNews = Opened | Tokenized | Said | Failed | Pulse

_encoder = msgspec.msgpack.Encoder()
orders = msgspec.msgpack.Decoder(AnyOrder)
news = msgspec.msgpack.Decoder(list[AnyNews])


def frame(message: Any) -> bytes:
    """`message`, ready to be written."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_SIZE, "big") + body


async def read(reader: asyncio.StreamReader) -> bytes:
    """The next frame's body.

    Raises:
        EOFError: the other end is gone.
        ProtocolError: it speaks another language.
    """
    try:
        size = int.from_bytes(await reader.readexactly(_SIZE), "big")
        if size > MOST_BYTES:
            raise ProtocolError(f"a frame of {size} bytes came; {MOST_BYTES} is the most")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError("the other end is gone") from error
