"""The transformers engine: one thread owns model and batch, asyncio talks to it.

Orders go in through a deque under a condition, what came out goes back by one
`call_soon_threadsafe` a step. Answers in flight are bounded by slots + queue, counted until
the thread itself has let go of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.contracts import ChatInput, Finish, ModelCard, Sampling, TextInput
from tether.engines import validate
from tether.engines.engine import Capabilities, Delta, EngineOptions, Job, Snapshot
from tether.engines.folder import unloadable
from tether.engines.smollm2 import prepare
from tether.errors import (
    BadRequest,
    ContextExceeded,
    Draining,
    Internal,
    ModelUnusable,
    Overloaded,
    TetherError,
    Unavailable,
)
from tether.telemetry import logs, metrics

if TYPE_CHECKING:
    from tether.engines.batcher import Batcher, Row, Step
    from tether.engines.model import SlotModel

log = logs.get(__name__)
JOIN_S = 30.0  # more than any step takes


class Stream:
    """What an answer's reader has not taken yet. Deltas that pile up become one, so it holds
    no more than the answer itself."""

    __slots__ = ("_error", "_finish", "_ids", "_texts", "_waiter", "ended")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._finish: Finish | None = None
        self._error: TetherError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False

    def put(self, item: Delta | TetherError) -> None:
        if isinstance(item, Delta):
            self._ids.extend(item.token_ids)
            self._texts.append(item.text)
            self._finish = item.finish
            self.ended = item.finish is not None
        else:
            self._error = item
            self.ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Delta:
        while not (self._ids or self._finish or self._error):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._ids and self._error is not None:
            raise self._error
        delta = Delta(tuple(self._ids), "".join(self._texts), self._finish)
        self._ids.clear()
        self._texts.clear()
        return delta


class TransformersEngine:
    """See the module. In float32 it continues exactly, in bfloat16 what was sent stands."""

    def __init__(self, card: ModelCard, options: EngineOptions) -> None:
        self._card = card
        self._options = options
        self.slots = options.slots
        self.capabilities = Capabilities(
            resume="exact" if card.dtype == "float32" else "prefix",
            tag="",
            context=card.context,
            chat=False,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()
        self._orders: deque[tuple[str, Row]] = deque()
        self._closing = False
        self._fault = ""
        self._streams: dict[Row, Stream] = {}
        self._most = options.slots + options.queue
        self._tokenizer: Any = None
        self._table: tuple[bytes, ...] = ()
        self._ends: frozenset[int] = frozenset()
        self._batcher: Batcher | None = None
        self._refused = metrics.bound_refused.labels("engine_queue")

    # ---- on the loop

    async def open(self) -> None:
        """See `Engine.open`. Converts the model first where that is needed.

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

    def prompt(self, input: ChatInput | TextInput) -> tuple[int, ...]:
        """See `Engine.prompt`."""
        if isinstance(input, TextInput):
            ids = self._encode(input.prompt, special=True)
            if not ids:
                raise BadRequest("the prompt is empty; say something", param="prompt")
            return ids
        messages = validate.messages(input)
        if not self.capabilities.chat:
            raise BadRequest(
                f"model {self._card.ref} has no chat template; send a prompt instead of messages",
                param="messages",
            )
        import jinja2

        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=False,
                add_generation_prompt=True,
            )
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return self._encode(text, special=False)

    def _encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        encode = self._tokenizer.backend_tokenizer.encode
        context = self.capabilities.context
        # so that an enormous text doesn't hold up the loop; 16 characters a token are rare
        head = 16 * context
        if len(text) > head and (
            len(encode(text[:head], add_special_tokens=special).ids) > context + 1
        ):
            raise ContextExceeded(
                f"the model's context is {context} tokens and the prompt is far longer; shorten it",
                param="messages",
            )
        return tuple(encode(text, add_special_tokens=special).ids)

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """See `Engine.check`."""
        validate.request(prompt_tokens, sampling, self.capabilities.context)

    async def run(self, job: Job) -> AsyncGenerator[Delta, None]:
        """See `Engine.run`."""
        self._refuse(job)
        from tether.engines.batcher import Row

        row = Row(job, self._table)
        if finish := row.replay(job.emitted_ids, self._ends):
            yield Delta((), "", finish)
            return
        stream = self._streams[row] = Stream()
        self._order("add", row)
        try:
            while True:
                delta = await stream.next()
                yield delta
                if delta.finish is not None:
                    return
        finally:
            if not stream.ended:
                self._order("cancel", row)

    def _refuse(self, job: Job) -> None:
        if self._closing or self._batcher is None:
            raise Draining("the engine is not open; try another worker")
        if self._fault:
            raise Unavailable(self._fault)
        size = len(self._table)
        if not all(0 <= token < size for token in (*job.prompt_ids, *job.emitted_ids)):
            raise BadRequest(f"a token id is outside the vocabulary of {size}", param="prompt_ids")
        validate.request(len(job.prompt_ids), job.sampling, self.capabilities.context)
        if len(self._streams) >= self._most:
            self._refused.inc()
            raise Overloaded(
                f"{self._most} answers run or wait in the engine; try again shortly",
                retry_after_s=1.0,
            )

    def _order(self, what: str, row: Row) -> None:
        with self._wake:
            self._orders.append((what, row))
            self._wake.notify()

    def _deliver(self, step: Step) -> None:
        for row, item in step.said:
            stream = self._streams.get(row)
            if stream is not None:  # it is after `close`
                stream.put(item)
                if stream.ended:
                    del self._streams[row]
        for row in step.dropped:
            self._streams.pop(row, None)

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
            batcher = self._load()
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
        self._batcher = batcher
        opened.set_result(None)
        try:
            self._work(batcher)
        except Exception as error:
            log.exception("engine.fault", model=self._card.ref)
            self._fault = f"the engine of {self._card.ref} broke down ({type(error).__name__})"
            self._post(self._abandon, Internal(self._fault))

    def _load(self) -> Batcher:
        # Before torch loads OpenMP: its threads wait by spinning, which on cores that are
        # shared with other processes makes a step 3 to 10 times as slow as sleeping does.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        folder = prepare(
            self._card,
            self._options.cache_dir,
            lambda what, fraction: log.info("engine.prepare", what=what, fraction=fraction),
        )
        assert folder is not None
        from tether.engines.batcher import Batcher
        from tether.engines.model import load

        self._open_tokenizer(folder)
        model = load(folder, self._card, slots=self._options.slots, threads=self._options.threads)
        self._describe(model)
        return Batcher(
            model, slots=self._options.slots, prefill_tokens=self._options.prefill_tokens
        )

    def _open_tokenizer(self, folder: Path) -> None:
        import transformers

        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except Exception as error:  # whatever its files can provoke in the libraries
            raise unloadable(folder, error) from error

    def _describe(self, model: SlotModel) -> None:
        import torch
        import transformers

        from tether.engines.text import byte_table

        backend = self._tokenizer.backend_tokenizer
        self._table = byte_table(backend.to_str(), model.vocabulary)
        self._ends = model.ends
        self.capabilities = Capabilities(
            resume="exact" if self._card.dtype == "float32" else "prefix",
            tag="/".join(
                (
                    "transformers",
                    self._card.dtype,
                    f"torch-{torch.__version__}",
                    transformers.__version__,
                    torch.backends.cpu.get_cpu_capability(),
                )
            ),
            context=model.context,
            chat=bool(self._tokenizer.chat_template),
        )

    def _work(self, batcher: Batcher) -> None:
        ref = self._card.ref
        step_seconds = metrics.engine_step_seconds.labels(ref)
        tokens = [metrics.engine_tokens.labels(ref, kind) for kind in ("prompt", "output")]
        rows = [metrics.engine_rows.labels(ref, state) for state in ("running", "queued")]
        cache_bytes = metrics.engine_cache_bytes.labels(ref)
        counted = [0, 0]
        while True:
            with self._wake:
                while not (self._orders or self._closing or batcher.busy):
                    self._wake.wait()
                if self._closing:
                    break
                orders = tuple(self._orders)
                self._orders.clear()
            for what, row in orders:
                if what == "add":
                    batcher.add(row)
                else:
                    batcher.cancel(row)
            began = time.perf_counter()
            step = batcher.step()
            if step.said:
                step_seconds.observe(time.perf_counter() - began)
            if step.said or step.dropped:
                self._post(self._deliver, step)
            for at, count in enumerate((batcher.prompt_tokens, batcher.output_tokens)):
                tokens[at].inc(count - counted[at])
                counted[at] = count
            rows[0].set(batcher.running)
            rows[1].set(batcher.queued)
            cache_bytes.set(batcher.memory_bytes)

    def _post(self, call: Any, argument: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, argument)
        except RuntimeError:  # the loop is closed, so nobody is left to tell
            self._closing = True
