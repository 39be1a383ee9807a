"""An engine in a process of its own, as its worker sees it.

A model that crashes, runs out of memory or never comes back from a step takes that process with
it and no actor. Such an end is a `fault`: all answers break off with `PeerLost`, as they would
had the worker been lost, so gateways go on elsewhere, or on the engine that follows.

Stuck is who is silent (a pulse comes every second, whatever is computed), or makes no step while
answers run; and when none do, who gives no token to a probe.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Literal, Unpack, cast

from actors.contracts import EmbeddingInput, Input, ModelCard, Sampling
from actors.engines import host_process, validate
from actors.engines import host_wire as wire
from actors.engines.engine import Capabilities, Engine, EngineOptions, Snapshot
from actors.engines.engine_sandbox import Mode, tidy
from actors.engines.factory import Bounds, create, kind_of
from actors.engines.generation import Delta, Generation
from actors.engines.host_process import prepared
from actors.engines.mirror import Mirror
from actors.engines.stream import DeltaStream
from actors.engines.watchdog import TICK_S, Watchdog
from actors.errors import ModelUnusable
from supervision.errors import Draining, Overloaded, PeerLost, ProtocolError, TetherError, from_code
from supervision.telemetry import bounds as bound_metrics
from supervision.telemetry import logs

log = logs.get(__name__)

QUIT_S = 5.0  # to end by itself, when told
PROBE: tuple[int, ...] = (1,)  # any token will do: it is only to be computed


def host(
    card: ModelCard,
    *,
    cache_dir: Path,
    stuck_s: float = 60.0,
    probe_s: float = 30.0,
    gpus: str = host_process.ALL,
    sandbox: Mode = "auto",
    **bounds: Unpack[Bounds],
) -> Engine:
    """As `factory.create`, in a process of its own where the engine computes a model. `stuck_s`,
    `probe_s`, `gpus` and `sandbox`: see `HostedEngine`.

    Raises:
        ModelUnusable: see `factory.kind_of`.
        ValueError: a bound is out of range.
    """
    if not kind_of(card).weights:
        return create(card, cache_dir=cache_dir, **bounds)
    options = EngineOptions(cache_dir=cache_dir, **bounds)
    return HostedEngine(card, options, stuck_s=stuck_s, probe_s=probe_s, gpus=gpus, sandbox=sandbox)


class HostedEngine:
    """See the module.

    Args:
        stuck_s: without a pulse, or a step while answers run, before it counts as stuck.
        probe_s: without an answer before one token is asked for.
        gpus: that its process may see: "all", "none", or their numbers, such as "0,2".
        sandbox: of its process: "auto" as far as the kernel has it, "required" or no engine,
            "off" for none; see `engine_sandbox`.
    """

    def __init__(
        self,
        card: ModelCard,
        options: EngineOptions,
        *,
        stuck_s: float = 60.0,
        probe_s: float = 30.0,
        gpus: str = host_process.ALL,
        sandbox: Mode = "auto",
    ) -> None:
        self.slots = options.slots
        self.capabilities = Capabilities(resume="prefix", tag="", context=card.context, chat=False)
        self._card = card
        self._gpus = gpus
        self._mode: Mode = sandbox
        self._sandbox = host_process.UNCONFINED
        self._options = options
        self._watchdog = Watchdog(stuck_s=stuck_s, probe_s=probe_s)
        self._most = options.slots + options.queue
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._opened: asyncio.Future[None] | None = None
        self._ids = itertools.count(1)
        self._streams: dict[int, DeltaStream] = {}
        self._prompts: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._pulse = wire.Pulse()
        self._mirror = Mirror(card.ref)
        self._closing = False
        self._fault = ""
        self._refused = bound_metrics.refused.labels("engine_queue")

    @property
    def pid(self) -> int:
        """The engine's process; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    # ---- its life

    async def open(self) -> None:
        """See `Engine.open`."""
        self._opened = asyncio.get_running_loop().create_future()
        card, self._sandbox = await asyncio.to_thread(
            prepared, self._card, self._options.cache_dir, self._mode, self._gpus
        )
        self._process, ours = host_process.start(card, self._gpus, self._sandbox)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        options = self._options
        self._order(
            wire.OpenEngine(
                card,
                self._sandbox.cache or str(options.cache_dir),
                options.slots,
                options.threads,
                options.queue,
                options.prefill_tokens,
                options.prefix_bytes,
            )
        )
        self._tasks = [
            asyncio.create_task(self._read(reader)),
            asyncio.create_task(self._watch()),
        ]
        try:
            await self._opened
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closing = True
        self._abandon(Draining("the engine is closing; try another worker"))
        for task in self._tasks:
            task.cancel()
        process, self._process = self._process, None
        if process is None:
            tidy(self._sandbox)
            return
        self._order(wire.Quit())
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, process.wait, 0 if self._fault else QUIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await loop.run_in_executor(None, process.wait)
        finally:
            if process.returncode is None:  # we were cancelled
                process.kill()
            if self._writer is not None:
                self._writer.close()
            tidy(self._sandbox)
        self._mirror.clear()

    # ---- requests

    async def prompt(self, input: Input) -> tuple[int, ...]:
        """See `Engine.prompt`."""
        self._refuse()
        id = next(self._ids)
        done: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._prompts[id] = done
        try:
            self._order(wire.Tokenize(id, input))
            return await done
        finally:
            del self._prompts[id]

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """See `Engine.check`."""
        if not self.capabilities.embeds:  # whose context is that of each text
            validate.request(prompt_tokens, sampling, self.capabilities.context)

    async def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """See `Engine.run`."""
        self._refuse()
        if len(self._streams) >= self._most:
            self._refused.inc()
            raise Overloaded(
                f"{self._most} answers run or wait in the engine; try again shortly",
                retry_after_s=1.0,
            )
        id = next(self._ids)
        stream = self._streams[id] = DeltaStream()
        self._order(
            wire.Compute(
                id,
                generation.prompt_ids,
                generation.emitted_ids,
                generation.sampling,
                generation.scope,
            )
        )
        try:
            while True:
                delta = await stream.next()
                yield delta
                if delta.finish is not None:
                    return
        finally:
            self._streams.pop(id, None)
            if not stream.ended:
                self._order(wire.Drop(id))

    def snapshot(self) -> Snapshot:
        """See `Engine.snapshot`; up to a second old, but for `fault`."""
        seen = self._pulse
        return Snapshot(
            running=min(seen.running, len(self._streams)),
            queued=max(0, len(self._streams) - seen.running),
            prompt_tokens=seen.prompt_tokens,
            output_tokens=seen.output_tokens,
            steps=seen.steps,
            memory_bytes=seen.memory_bytes,
            resident_bytes=seen.resident_bytes,
            fault=self._fault or seen.fault,
            reuse=seen.reuse,
        )

    def _refuse(self) -> None:
        if self._fault:
            raise PeerLost(self._fault)
        if self._closing or self._writer is None:
            raise Draining("the engine is not open; try another worker")

    def _order(self, order: wire.HostOrder) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.frame(order))

    # ---- what comes back

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                for item in wire.news.decode(await wire.read(reader)):
                    self._take(item)
                self._watchdog.heard()
        except EOFError:
            process = self._process
            how = await host_process.ending(process) if process else "it was told to"
            self._lose(f"the engine of {self._card.ref} ended ({how})")
        except (ProtocolError, ValueError) as error:
            self._lose(f"the engine of {self._card.ref} spoke nonsense ({error})")

    def _take(self, item: wire.AnyNews) -> None:
        match item:
            case wire.Said():
                self._watchdog.said()
                if stream := self._streams.get(item.id):
                    stream.put(Delta(item.token_ids, item.text, item.finish))
            case wire.Pulse():
                before, self._pulse = self._pulse, item
                if (before.steps, before.prompt_tokens) != (item.steps, item.prompt_tokens):
                    self._watchdog.moved()
                self._mirror.show(item)
            case wire.Tokenized():
                if (done := self._prompts.get(item.id)) and not done.done():
                    done.set_result(item.token_ids)
            case wire.Failed():
                self._failed(item)
            case wire.Opened():
                resume = cast(Literal["exact", "prefix"], item.resume)
                self.capabilities = Capabilities(
                    resume=resume,
                    tag=item.tag,
                    context=item.context,
                    chat=item.chat,
                    embeds=item.embeds,
                )
                if self._opened is not None and not self._opened.done():
                    self._opened.set_result(None)

    def _failed(self, item: wire.Failed) -> None:
        error = from_code(
            item.code, item.message, retry_after_s=item.retry_after_s, param=item.param
        )
        if item.id == 0:
            self._end_opening(error)
        elif stream := self._streams.get(item.id):
            stream.put(error)
        elif (done := self._prompts.get(item.id)) and not done.done():
            done.set_exception(error)

    # ---- what can go wrong

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if stuck := self._watchdog.tick(busy=bool(self._streams)):
                self._lose(f"the engine of {self._card.ref} is stuck: {stuck}")
            elif self._pulse.fault:
                self._lose(self._pulse.fault)
            elif self._opened and self._opened.done() and self._watchdog.probe():
                self._tasks.append(asyncio.create_task(self._probe()))
                self._tasks = [task for task in self._tasks if not task.done()]
            if self._fault:
                return

    async def _probe(self) -> None:
        """One token. That it doesn't come, `_watch` sees as of any other answer."""
        sampling = Sampling(max_tokens=1, temperature=0.0, seed=0)
        with suppress(TetherError):
            ids = PROBE
            if self.capabilities.embeds:
                ids = await self.prompt(EmbeddingInput(texts=("?",)))
            async with aclosing(self.run(Generation(prompt_ids=ids, sampling=sampling))) as deltas:
                async for _ in deltas:
                    pass

    def _lose(self, why: str) -> None:
        """It is over with this process: nothing of it counts any more."""
        if self._fault or self._closing:
            return
        log.error("engine.lost", model=self._card.ref, why=why, pid=self.pid)
        self._fault = why
        if self._process is not None:
            self._process.kill()
        self._end_opening(ModelUnusable(why))
        self._abandon(PeerLost(why))

    def _end_opening(self, error: TetherError) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)

    def _abandon(self, error: TetherError) -> None:
        for stream in self._streams.values():
            stream.put(type(error)(error.message))  # an exception of its own for each task
        self._streams.clear()
        for done in self._prompts.values():
            if not done.done():
                done.set_exception(type(error)(error.message))
