"""The engine to measure the network with: it says the words of the last message over and over.

It has no vocabulary. A prompt is the message's UTF-8 in groups of four bytes, padded with
blanks, so that another worker can continue from the ids; output token i is word i modulo the
number of words. `delay=MS` in the last message waits that long before each token but the
first; the directive itself is not echoed (a message of nothing else echoes "echo").
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

from actors.contracts import Finish, Input, ModelCard, Sampling, TextInput
from actors.engines import metrics, validate
from actors.engines.engine import Capabilities, EngineOptions, Snapshot
from actors.engines.generation import Delta, Generation
from actors.engines.text import StopScanner
from actors.engines.weights import Progress, silent
from supervision.errors import BadRequest, Draining, Overloaded
from supervision.telemetry import bounds

_DELAY = re.compile(r"delay=(\d{1,5})")
# tokens without a delay are handed over together after this long, so that a measurement
# counts the network and not the engine's own bookkeeping; each still takes a turn of the loop
BURST_S = 0.005


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> None:
    """See `factory.prepare`: there are no weights."""


def create(card: ModelCard, options: EngineOptions) -> EchoEngine:
    """See `factory.create`."""
    return EchoEngine(card, options)


def encode(text: str) -> tuple[int, ...]:
    """The prompt ids of a message: its bytes, four to an id."""
    raw = text.encode()
    raw += b" " * (-len(raw) % 4)
    return struct.unpack(f"<{len(raw) // 4}I", raw)


def decode(prompt_ids: tuple[int, ...]) -> tuple[list[str], float]:
    """The words to echo, and the seconds to wait between them.

    Raises:
        BadRequest: these ids were not made by `encode`.
    """
    try:
        text = struct.pack(f"<{len(prompt_ids)}I", *prompt_ids).decode()
    except (struct.error, UnicodeDecodeError):
        raise BadRequest("the prompt ids are not those of the echo engine") from None
    words = text.split()
    delay_s = 0.0
    if "delay=" in text:
        kept = []
        for word in words:
            if found := _DELAY.fullmatch(word):
                delay_s = int(found[1]) / 1000
            else:
                kept.append(word)
        words = kept
    return words or ["echo"], delay_s


class EchoEngine:
    """See the module. Continues exactly: an answer depends on the prompt alone."""

    def __init__(self, card: ModelCard, options: EngineOptions) -> None:
        self.capabilities = Capabilities(
            resume="exact", tag="echo/1", context=card.context, chat=True
        )
        self.slots = options.slots
        self._ref = card.ref
        self._queue = options.queue
        self._free = asyncio.Semaphore(options.slots)
        self._running = 0
        self._queued = 0
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._closed = False
        self._refused = bounds.refused.labels("engine_queue")
        self._output_metric = metrics.engine_tokens.labels(card.ref, "output")
        self._prompt_metric = metrics.engine_tokens.labels(card.ref, "prompt")

    async def open(self) -> None:
        """Nothing to load."""

    async def prompt(self, input: Input) -> tuple[int, ...]:
        """The ids of the last message.

        Raises:
            BadRequest: there is no message, a role is unknown, or there is no word.
        """
        if isinstance(input, TextInput):
            text, param = input.prompt, "prompt"
        else:
            text, param = validate.messages(input, self._ref)[-1].content, "messages"
        if not text or text.isspace():
            raise BadRequest("there is no word to echo; say something", param=param)
        return encode(text)

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """See `Engine.check`."""
        validate.request(prompt_tokens, sampling, self.capabilities.context)

    async def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """See `Engine.run`."""
        if self._closed:
            raise Draining("the engine is closing; try another worker")
        if self._free.locked():
            if self._queued >= self._queue:
                self._refused.inc()
                raise Overloaded(
                    f"{self.slots} answers run and {self._queued} wait; try again shortly",
                    retry_after_s=1.0,
                )
            self._queued += 1
            try:
                await self._free.acquire()
            finally:
                self._queued -= 1
        else:
            await self._free.acquire()
        self._running += 1
        said = 0
        try:
            async for delta in self._say(generation):
                said += len(delta.token_ids)
                yield delta
        finally:
            self._running -= 1
            self._free.release()
            self._prompt_tokens += len(generation.prompt_ids)
            self._output_tokens += said
            self._prompt_metric.inc(len(generation.prompt_ids))
            self._output_metric.inc(said)

    async def _say(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        words, delay_s = decode(generation.prompt_ids)
        count, limit = len(words), generation.sampling.max_tokens
        stops = StopScanner(generation.sampling.stop) if generation.sampling.stop else None
        at = len(generation.emitted_ids)
        if stops:
            for i in range(at):
                if stops.push(words[i % count] if i == 0 else " " + words[i % count])[1]:
                    yield Delta((), "", Finish.STOP)
                    return
        if at >= limit:
            yield Delta((), "", Finish.LENGTH)
            return
        loop = asyncio.get_running_loop()
        ids: list[int] = []
        texts: list[str] = []
        due = 0.0  # the first token leaves at once
        while True:
            word = at % count
            ids.append(word)
            text = words[word] if at == 0 else " " + words[word]
            at += 1
            finish = Finish.LENGTH if at >= limit else None
            if stops:
                text, stopped = stops.push(text)
                if stopped:
                    finish = Finish.STOP
                elif finish:
                    text += stops.flush()
            texts.append(text)
            if finish:
                yield Delta(tuple(ids), "".join(texts), finish)
                return
            if delay_s or loop.time() >= due:
                yield Delta(tuple(ids), "".join(texts))
                ids.clear()
                texts.clear()
                due = loop.time() + BURST_S
            await asyncio.sleep(delay_s)

    def snapshot(self) -> Snapshot:
        """See `Engine.snapshot`."""
        return Snapshot(
            running=self._running,
            queued=self._queued,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )

    async def close(self) -> None:
        """New answers are refused; those that run are in their consumers' hands."""
        self._closed = True
