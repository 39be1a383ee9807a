"""An engine whose answers are computed in one batch: one thread owns model and batch, asyncio
talks to it.

Orders go in through a deque under a condition, what came out goes back by one
`call_soon_threadsafe` a step. Answers in flight are bounded by slots + queue, counted until
the thread itself has let go of them. Subclasses load the model and tokenize.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actors.contracts import Input, ModelCard, Sampling, TextInput
from actors.engines import metrics, validate
from actors.engines.batch import Batch, BatchStep, OwnBatch
from actors.engines.engine import Capabilities, EngineOptions, Snapshot
from actors.engines.generation import Delta, Generation
from actors.engines.mirror import ReuseShown
from actors.engines.plain_text import ControlTokens, PlainText
from actors.engines.sequence import Sequence
from actors.engines.stream import DeltaStream
from actors.errors import ContextExceeded, ModelUnusable, WorkerLost
from supervision.errors import BadRequest, Draining, Overloaded, TetherError, Unavailable
from supervision.telemetry import bounds, logs

if TYPE_CHECKING:
    from actors.engines.batcher import Forward

log = logs.get(__name__)
JOIN_S = 30.0  # more than any step takes
MOST_DURATIONS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that can be computed, or a batch of its library's own. `table` has the bytes of every
    token id, `control` those that are none of a text; `unload` is called last, on the engine's
    thread."""

    model: Forward | OwnBatch
    table: tuple[bytes, ...]
    capabilities: Capabilities
    control: ControlTokens = field(default_factory=ControlTokens)
    unload: Callable[[], None] = lambda: None


class BatchEngine(ABC):
    """See the module."""

    def __init__(self, card: ModelCard, options: EngineOptions) -> None:
        self._card = card
        self._options = options
        self.slots = options.slots
        self.capabilities = Capabilities(resume="prefix", tag="", context=card.context, chat=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()
        self._orders: deque[tuple[str, Sequence]] = deque()
        self._closing = False
        self._fault = ""
        self.durations: list[float] = []
        """Of the latest steps, in seconds, for whoever takes them out."""
        self._streams: dict[Sequence, DeltaStream] = {}
        self._most = options.slots + options.queue
        self._table: tuple[bytes, ...] = ()
        self._ends: frozenset[int] = frozenset()
        self._plain: PlainText | None = None
        self._batcher: Batch | None = None
        self._refused = bounds.refused.labels("engine_queue")

    # ---- what a subclass adds

    @abstractmethod
    def _load(self) -> Loaded:
        """The model, on the engine's thread.

        Raises:
            ModelUnusable: one sentence.
        """

    @abstractmethod
    def _templated(self, messages: list[dict[str, str]]) -> str:
        """A conversation as one text, by the model's chat template.

        Raises:
            BadRequest: the template refuses it.
        """

    @abstractmethod
    def _encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        """See `plain_text.Encode`."""

    # ---- on the loop

    async def open(self) -> None:
        """See `Engine.open`.

        Raises:
            ModelUnusable: one sentence.
        """
        self._loop = asyncio.get_running_loop()
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(opened,), name=f"engine {self._card.ref}", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wrap_future(opened)
        except BaseException:
            await self.close()
            raise

    async def prompt(self, input: Input) -> tuple[int, ...]:
        """See `Engine.prompt`."""
        plain = self._plain
        if isinstance(input, TextInput):
            text = input.prompt
            self._refuse_enormous(text, special=True)
            ids = plain.text(text) if plain else self._encode(text, special=True)
            if not ids:
                raise BadRequest("the prompt is empty; say something", param="prompt")
            return ids
        messages = validate.messages(input, self._card.ref)
        if not self.capabilities.chat:
            raise BadRequest(
                f"model {self._card.ref} has no chat template; send a prompt instead of messages",
                param="messages",
            )
        said = [{"role": m.role, "content": m.content} for m in messages]
        text = self._templated(said)
        self._refuse_enormous(text, special=False)
        if plain:
            return plain.conversation(text, said, self._templated)
        return self._encode(text, special=False)

    def _refuse_enormous(self, text: str, *, special: bool) -> None:
        """So that it doesn't hold up the loop; 16 characters a token are rare."""
        context = self.capabilities.context
        head = 16 * context
        if len(text) > head and len(self._encode(text[:head], special=special)) > context + 1:
            raise ContextExceeded(
                f"the model's context is {context} tokens and the prompt is far longer; shorten it",
                param="messages",
            )

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """See `Engine.check`."""
        validate.request(prompt_tokens, sampling, self.capabilities.context)

    async def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """See `Engine.run`."""
        self._refuse(generation)
        sequence = Sequence(generation, self._table)
        if finish := sequence.replay(generation.emitted_ids, self._ends):
            yield Delta((), "", finish)
            return
        stream = self._streams[sequence] = DeltaStream()
        self._order("add", sequence)
        try:
            while True:
                delta = await stream.next()
                yield delta
                if delta.finish is not None:
                    return
        finally:
            if not stream.ended:
                self._order("cancel", sequence)

    def _refuse(self, generation: Generation) -> None:
        if self._fault:
            raise Unavailable(self._fault)
        if self._closing or self._batcher is None:
            raise Draining("the engine is not open; try another worker")
        size = len(self._table)
        given = (*generation.prompt_ids, *generation.emitted_ids)
        if not all(0 <= token < size for token in given):
            raise BadRequest(f"a token id is outside the vocabulary of {size}", param="prompt_ids")
        validate.request(len(generation.prompt_ids), generation.sampling, self.capabilities.context)
        if len(self._streams) >= self._most:
            self._refused.inc()
            raise Overloaded(
                f"{self._most} answers run or wait in the engine; try again shortly",
                retry_after_s=1.0,
            )

    def _order(self, what: str, sequence: Sequence) -> None:
        with self._wake:
            self._orders.append((what, sequence))
            self._wake.notify()

    def _deliver(self, step: BatchStep) -> None:
        for sequence, item in step.said:
            stream = self._streams.get(sequence)
            if stream is not None:  # it is after `close`
                stream.put(item)
                if stream.ended:
                    del self._streams[sequence]
        for sequence in step.dropped:
            self._streams.pop(sequence, None)

    def _abandon(self, error: TetherError) -> None:
        for stream in self._streams.values():
            stream.put(type(error)(error.message))  # an exception of its own for each task
        self._streams.clear()

    def snapshot(self) -> Snapshot:
        """See `Engine.snapshot`."""
        batcher = self._batcher
        if batcher is None:
            return Snapshot(fault=self._fault)
        running = min(batcher.running, len(self._streams))
        return Snapshot(
            running=running,
            queued=len(self._streams) - running,
            prompt_tokens=batcher.prompt_tokens,
            output_tokens=batcher.output_tokens,
            steps=batcher.steps,
            memory_bytes=batcher.memory_bytes,
            fault=self._fault,
            reuse=batcher.reuse,
        )

    async def close(self) -> None:
        """See `Engine.close`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._abandon(Draining("the engine is closing; try another worker"))
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.join, JOIN_S)
        self._batcher = None

    # ---- on the engine's thread

    def _live(self, opened: Future[None]) -> None:
        if not opened.set_running_or_notify_cancel():
            return
        try:
            loaded = self._load()
            batcher = self._begun(loaded)
        except TetherError as error:
            opened.set_exception(error)
            return
        except Exception as error:
            log.exception("engine.load_failed", model=self._card.ref)
            opened.set_exception(
                ModelUnusable(
                    f"model {self._card.ref} could not be loaded ({type(error).__name__}); "
                    "the log has the traceback"
                )
            )
            return
        opened.set_result(None)
        try:
            self._work(batcher)
        except Exception as error:
            log.exception("engine.fault", model=self._card.ref)
            self._fault = f"the engine of {self._card.ref} broke down ({type(error).__name__})"
            self._post(self._abandon, WorkerLost(self._fault))
        finally:
            self._batcher = None
            loaded.unload()

    def _begun(self, loaded: Loaded) -> Batch:
        try:
            batcher = self._batch(loaded.model)
        except BaseException:
            loaded.unload()
            raise
        self.capabilities, self._table = loaded.capabilities, loaded.table
        self._ends = loaded.model.ends
        if not self._card.special_tokens_in_text:
            self._plain = PlainText(loaded.control, self._encode)
        self._batcher = batcher
        return batcher

    def _batch(self, model: Forward | OwnBatch) -> Batch:
        if isinstance(model, OwnBatch):
            return model
        from actors.engines.batcher import Batcher  # with numpy, which only loaded models need

        options = self._options
        return Batcher(
            model,
            slots=options.slots,
            prefill_tokens=options.prefill_tokens,
            prefix_bytes=options.prefix_bytes,
        )

    def _work(self, batcher: Batch) -> None:
        ref = self._card.ref
        step_seconds = metrics.engine_step_seconds.labels(ref)
        tokens = [metrics.engine_tokens.labels(ref, kind) for kind in ("prompt", "output")]
        counts = [metrics.engine_rows.labels(ref, state) for state in ("running", "queued")]
        cache_bytes = metrics.engine_cache_bytes.labels(ref)
        reuse = ReuseShown(ref)
        counted = [0, 0]
        while True:
            with self._wake:
                while not (self._orders or self._closing or batcher.busy):
                    self._wake.wait()
                if self._closing:
                    break
                orders = tuple(self._orders)
                self._orders.clear()
            for what, sequence in orders:
                if what == "add":
                    batcher.add(sequence)
                else:
                    batcher.cancel(sequence)
            began = time.perf_counter()
            step = batcher.step()
            if step.said:
                took = time.perf_counter() - began
                step_seconds.observe(took)
                if len(self.durations) < MOST_DURATIONS:
                    self.durations.append(took)
            if step.said or step.dropped:
                self._post(self._deliver, step)
            for at, count in enumerate((batcher.prompt_tokens, batcher.output_tokens)):
                tokens[at].inc(count - counted[at])
                counted[at] = count
            counts[0].set(batcher.running)
            counts[1].set(batcher.queued)
            cache_bytes.set(batcher.memory_bytes)
            reuse.show(batcher.reuse)

    def _post(self, call: Any, argument: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, argument)
        except RuntimeError:  # the loop is closed, so nobody is left to tell
            self._closing = True
