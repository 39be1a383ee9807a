"""`python -m actors.engines.host FD PARENT TITLE SANDBOX`: an engine in a process of its own.

The worker that starts it holds the other end of the socket pair and is the only one to end it:
signals meant for the node are not for it, as runs go on while a worker drains. It ends when the
worker says so, when the pair breaks, and, even while the engine holds on to the interpreter,
when the worker's process is killed (prctl's parent-death signal). Before it loads anything it goes
into its sandbox (`actors.engines.engine_sandbox`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec
import psutil

from actors.engines import engine_sandbox
from actors.engines import host_wire as wire
from actors.engines.engine import Engine
from actors.engines.engine_sandbox import EngineSandbox
from actors.engines.factory import create
from actors.engines.generation import Generation
from actors.errors import ModelUnusable
from supervision.errors import Internal, Overloaded, TetherError
from supervision.telemetry import logs, title
from supervision.telemetry.bounded_log import BoundedLog

log = logs.get(__name__)
heard = BoundedLog(__name__)

PULSE_S = 1.0
HIGH_BYTES = 1 << 20  # unsent; above it answers pile up in the engine's streams, where they merge
MORE_TASKS = 256  # beyond slots and queue, for prompts to be tokenized
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Host:
    """One engine, one worker. `amiss` says why no engine may be opened; empty if one may."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, amiss: str = ""
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._amiss = amiss
        self._engine: Engine | None = None
        self._most = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unsent: list[wire.News] = []
        self._process = psutil.Process()

    async def serve(self) -> None:
        """Follow orders until the worker is gone, or says that it is over."""
        pulse = asyncio.create_task(self._pulse())
        opening: asyncio.Task[None] | None = None
        try:
            while True:
                order = wire.orders.decode(await wire.read(self._reader))
                if isinstance(order, wire.OpenEngine):
                    opening = asyncio.create_task(self._open(order))
                elif isinstance(order, wire.Tokenize | wire.Compute):
                    self._begin(order)
                elif isinstance(order, wire.Drop):
                    if task := self._tasks.get(order.id):
                        task.cancel()
                else:
                    break
            if self._engine is not None:
                await self._engine.close()
        finally:
            for task in (pulse, opening, *self._tasks.values()):
                if task is not None:
                    task.cancel()

    async def _open(self, order: wire.OpenEngine) -> None:
        try:
            if self._amiss:
                raise ModelUnusable(f"model {order.card.ref} can't be loaded: {self._amiss}")
            engine = create(
                order.card,
                slots=order.slots,
                threads=order.threads,
                cache_dir=Path(order.cache_dir),
                queue=order.queue,
                prefill_tokens=order.prefill_tokens,
                prefix_bytes=order.prefix_bytes,
            )
            await engine.open()
        except Exception as error:
            self._fail(0, error)
            return
        self._engine = engine
        self._most = order.slots + order.queue + MORE_TASKS
        can = engine.capabilities
        self._say(wire.Opened(can.resume, can.tag, can.context, can.chat, can.embeds))

    def _begin(self, order: wire.Tokenize | wire.Compute) -> None:
        if len(self._tasks) >= self._most:
            self._fail(order.id, Overloaded("the engine has too many requests"))
            return
        work = self._tokenize(order) if isinstance(order, wire.Tokenize) else self._compute(order)
        task = self._tasks[order.id] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(order.id, None))

    async def _tokenize(self, order: wire.Tokenize) -> None:
        assert self._engine is not None
        try:
            ids = await self._engine.prompt(order.input)
        except Exception as error:
            self._fail(order.id, error)
            return
        self._say(wire.Tokenized(order.id, ids))

    async def _compute(self, order: wire.Compute) -> None:
        assert self._engine is not None
        generation = Generation(
            prompt_ids=order.prompt_ids,
            emitted_ids=order.emitted_ids,
            sampling=order.sampling,
            scope=order.scope,
        )
        try:
            async with aclosing(self._engine.run(generation)) as deltas:
                async for delta in deltas:
                    self._say(wire.Said(order.id, delta.token_ids, delta.text, delta.finish))
                    await self._writer.drain()
        except Exception as error:
            self._fail(order.id, error)

    def _fail(self, id: int, error: Exception) -> None:
        if isinstance(error, ConnectionError):
            return  # the worker is gone, which `serve` sees
        if not isinstance(error, TetherError):
            heard.error("the engine failed", type(error).__name__, exc_info=error)
            error = Internal(f"the engine failed ({type(error).__name__})")
        self._say(wire.Failed(id, error.code, error.message, error.retry_after_s, error.param))

    def _say(self, news: wire.News) -> None:
        """It leaves at the end of this turn of the loop, with all else that was said in it."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(news)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        self._writer.write(wire.frame(unsent))

    async def _pulse(self) -> None:
        while True:
            engine = self._engine
            durations: list[float] = getattr(engine, "durations", [])
            taken, durations[:] = tuple(durations), []
            if engine is None:
                self._say(wire.Pulse(resident_bytes=self._resident()))
            else:
                now = engine.snapshot()
                self._say(
                    wire.Pulse(
                        now.running,
                        now.queued,
                        now.prompt_tokens,
                        now.output_tokens,
                        now.steps,
                        now.memory_bytes,
                        now.fault,
                        taken,
                        self._resident(),
                        now.reuse,
                    )
                )
            await asyncio.sleep(PULSE_S)

    def _resident(self) -> int:
        """Of memory, and of a GPU's where a library of ours takes some."""
        if "torch" not in sys.modules:
            return int(self._process.memory_info().rss)
        from actors.engines.device import reserved_bytes

        return int(self._process.memory_info().rss) + reserved_bytes()


async def serve(sock: socket.socket, amiss: str = "") -> None:
    """Be the engine of whoever is at the other end of `sock`; see `Host`."""
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=1 << 20)
    writer.transport.set_write_buffer_limits(HIGH_BYTES)
    try:
        await Host(reader, writer, amiss).serve()
    except EOFError:
        pass
    finally:
        writer.close()


def main(fd: int, parent: int, called: str, sandbox: EngineSandbox) -> None:
    """See the module; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _end_with(parent)
    logs.configure(engine_pid=os.getpid())
    title.entitle(called)
    if name := os.environ.get(wire.NAME):  # by which its worker's successor finds it
        with suppress(OSError):
            Path("/proc/self/comm").write_text(name)
    amiss = _confined(sandbox)
    _end_with(parent)  # who changes what it may do is asked again
    try:
        asyncio.run(serve(socket.socket(fileno=fd), amiss))
    finally:
        sys.stderr.flush()
        os._exit(0)  # whatever threads a library has left


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we could ask for the signal
        os._exit(1)


def _confined(sandbox: EngineSandbox) -> str:
    """Go into the sandbox, and say which of its fences stand. Why no engine may be opened in it;
    empty if one may."""
    if sandbox.mode == "off":
        log.warning("the engine runs without a sandbox: workers.sandbox, or its kind, says so")
        return ""
    held = engine_sandbox.enter(sandbox)
    tell = log.warning if held.lacks else log.info
    tell("the engine is in its sandbox", holds=held.holds, lacks=held.lacks)
    if held.lacks and sandbox.mode == "required":
        return (
            f"workers.sandbox is 'required', and this machine has not all of it: "
            f"{'; '.join(held.lacks)}; see to that, or write 'auto'"
        )
    return ""


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        msgspec.json.decode(sys.argv[4], type=EngineSandbox),
    )
