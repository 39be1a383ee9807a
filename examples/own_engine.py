"""An engine of one's own, as a new file of `actors/engines` would be: it draws from your words.

    .venv/bin/python -m examples.own_engine

Each token is a word of the prompt; at temperature 0 the words come in their order. It keeps what
every engine has to: the n-th token is a function of the prompt and (seed, n) alone, so another
worker goes on from the middle of an answer to the very word. To all the rest it is held by
tests/integration/test_engine_contract.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from pathlib import Path

from actors.contracts import ChatInput, Finish, Input, Message, ModelCard, Sampling, TextInput
from actors.engines import validate
from actors.engines.engine import Capabilities, EngineOptions, Snapshot
from actors.engines.generation import Delta, Generation
from actors.engines.text import StopScanner
from actors.engines.weights import Progress, silent
from supervision.errors import BadRequest, Draining, Overloaded
from supervision.telemetry import bounds


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path | None:
    """See `actors.engines.factory.prepare`: there are no weights."""
    return None


def create(card: ModelCard, options: EngineOptions) -> WordsEngine:
    """See `actors.engines.factory.create`."""
    return WordsEngine(card, options)


def words_of(prompt_ids: tuple[int, ...]) -> list[str]:
    """The words of a prompt, whose ids are its characters.

    Raises:
        BadRequest: the ids are those of another engine.
    """
    try:
        text = "".join(map(chr, prompt_ids))
        text.encode()  # half of a surrogate pair is no character
    except (ValueError, OverflowError):
        raise BadRequest("the prompt ids are no characters; they are another engine's") from None
    if not (words := text.split()):
        raise BadRequest("there is no word to draw; say something", param="messages")
    return words


class WordsEngine:
    """See the module, and `actors.engines.engine.Engine` for what each method must keep."""

    def __init__(self, card: ModelCard, options: EngineOptions) -> None:
        self.capabilities = Capabilities(
            resume="exact", tag="words/1", context=card.context, chat=True
        )
        self.slots = options.slots
        self._ref = card.ref
        self._queue = options.queue
        self._free = asyncio.Semaphore(options.slots)
        self._running = self._queued = self._prompt_tokens = self._output_tokens = 0
        self._closed = False
        self._refused = bounds.refused.labels("engine_queue")

    async def open(self) -> None:
        """Nothing to load. One with weights imports its library here, and not above."""

    async def prompt(self, input: Input) -> tuple[int, ...]:
        """The characters of the last message."""
        if isinstance(input, TextInput):
            text = input.prompt
        else:
            text = validate.messages(input, self._ref)[-1].content
        prompt_ids = tuple(map(ord, text))
        words_of(prompt_ids)
        return prompt_ids

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """As every engine does it."""
        validate.request(prompt_tokens, sampling, self.capabilities.context)

    async def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """One of `slots` answers at once; `queue` more wait, and others are refused."""
        if self._closed:
            raise Draining("the engine is closing; try another worker")
        if self._free.locked() and self._queued >= self._queue:
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
        self._running += 1
        try:
            async for delta in self._answer(generation):
                self._output_tokens += len(delta.token_ids)
                yield delta
        finally:  # also when nobody reads on: whoever asked may be gone
            self._running -= 1
            self._free.release()
            self._prompt_tokens += len(generation.prompt_ids)

    async def _answer(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        words, sampling = words_of(generation.prompt_ids), generation.sampling
        stops = StopScanner(sampling.stop)
        for at, word in enumerate(generation.emitted_ids):  # said before; a stop may have begun
            if stops.push(self._text(words, at, word))[1]:
                yield Delta((), "", Finish.STOP)
                return
        for at in range(len(generation.emitted_ids), sampling.max_tokens):
            word = at % len(words)
            if sampling.temperature:
                word = random.Random(f"{sampling.seed} {at}").randrange(len(words))
            text, stopped = stops.push(self._text(words, at, word))
            if stopped:
                yield Delta((word,), text, Finish.STOP)
                return
            if at + 1 == sampling.max_tokens:
                yield Delta((word,), text + stops.flush(), Finish.LENGTH)
                return
            yield Delta((word,), text)
            await asyncio.sleep(0)  # others have their turn
        yield Delta((), stops.flush(), Finish.LENGTH)  # all had been said before

    def _text(self, words: list[str], at: int, word: int) -> str:
        if not 0 <= word < len(words):
            raise BadRequest(f"emitted token {at} is {word}; the prompt has {len(words)} words")
        return words[word] if at == 0 else f" {words[word]}"

    def snapshot(self) -> Snapshot:
        """What operators see of it."""
        return Snapshot(
            running=self._running,
            queued=self._queued,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )

    async def close(self) -> None:
        """New answers are refused; those that run are in their readers' hands."""
        self._closed = True


async def drive() -> None:
    """What a worker does with an engine, and what it does when another worker was lost."""
    card = ModelCard(name="words", version="1", engine="words", context=512)
    options = EngineOptions(cache_dir=Path(), slots=2)
    prepare(card, options.cache_dir)
    first, second = create(card, options), create(card, options)
    await first.open()
    await second.open()
    said = ChatInput(messages=(Message(role="user", content="the sea and the fox and the moon"),))
    prompt_ids, sampling = await first.prompt(said), Sampling(max_tokens=12, seed=7)
    first.check(len(prompt_ids), sampling)
    whole = Generation(prompt_ids=prompt_ids, sampling=sampling)
    deltas = [delta async for delta in first.run(whole)]
    text = "".join(delta.text for delta in deltas)
    print(f"undisturbed:  {text} ({deltas[-1].finish})")
    before = deltas[:5]
    emitted_ids = tuple(token for delta in before for token in delta.token_ids)
    rest = Generation(prompt_ids=prompt_ids, emitted_ids=emitted_ids, sampling=sampling)
    begun = "".join(delta.text for delta in before)
    resumed = begun + "".join([delta.text async for delta in second.run(rest)])
    print(f"broken off:   {begun}")
    print(f"by a second:  {resumed}")
    print("the same to the last word" if resumed == text else "NOT the same")
    print(first.snapshot())
    for engine in (first, second):
        await engine.close()


if __name__ == "__main__":
    asyncio.run(drive())
