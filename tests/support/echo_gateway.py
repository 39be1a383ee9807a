"""A whole gateway that only echoes: what the front door's tests run against.

`EchoGateway` holds the behaviour, as async methods over contracts. `InProcess` is a road and a
tree around several of them within one loop, with kills and restarts; `EchoGatewayActor` in
`tests.support.echo_actor` is the same behaviour as a real actor. The same tests run against both.

The answer is the words of the last message over and over, one word a token, up to max_tokens.
`delay=MS` in the last message waits that long between tokens, `hold` stops after the first token
until the stream is closed, or `release` is set. Keys are `tether-<tenant>-secret`, and
`ListModels` with the one of tenant `release` sets it. The model is echo@1, also called echo.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from actors.contracts import (
    Authenticate,
    Authenticated,
    Catalog,
    ChatInput,
    Chunk,
    Completed,
    Finish,
    Infer,
    ListModels,
    ModelCard,
    Readiness,
    Ready,
    Usage,
)
from actors.errors import KeyReused, ModelNotFound
from supervision.errors import PeerLost, RateLimited, TetherError, Unauthenticated
from supervision.runtime.cancel_cause import CancelCause

CARD = ModelCard(name="echo", version="1", engine="echo", context=4096, created_s=1_700_000_000)
_DELAY = re.compile(r"delay=(\d+)")


class EchoGateway:
    """Answers `Authenticate`, `Infer`, `ListModels` and `Readiness`."""

    def __init__(self) -> None:
        self.seen: deque[Infer] = deque(maxlen=1000)
        self.asked: deque[str] = deque(maxlen=1000)
        self.revoked: set[str] = set()
        self.running = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self._tokens: OrderedDict[str, bytes] = OrderedDict()

    async def infer(self, msg: Infer) -> AsyncGenerator[Chunk | Completed, None]:
        self.seen.append(msg)
        self._authenticate(msg.credential)
        if msg.model_ref not in (CARD.name, CARD.ref):
            raise ModelNotFound(f"there is no model {msg.model_ref!r}", param="model")
        if msg.credential.startswith("tether-limited-"):
            raise RateLimited("this tenant has used up its minute", retry_after_s=6.2)
        known = self._tokens.setdefault(msg.retry_token, msg.fingerprint)
        if known != msg.fingerprint:
            raise KeyReused.told()
        while len(self._tokens) > 1000:
            self._tokens.popitem(last=False)
        text = (
            msg.input.messages[-1].content if isinstance(msg.input, ChatInput) else msg.input.prompt
        )
        words = text.split()
        total = msg.sampling.max_tokens
        usage = Usage(prompt_tokens=len(words), completion_tokens=total)
        delay = _DELAY.search(text)
        self.running += 1
        try:
            if "bug" in words:
                raise RuntimeError("a bug of the echo")
            if msg.stream:
                for seq in range(msg.from_seq, total):
                    yield Chunk(seq=seq, token_ids=(seq,), text=words[seq % len(words)] + " ")
                    if "hold" in words:
                        await self.release.wait()
                    await asyncio.sleep(int(delay.group(1)) / 1000 if delay else 0)
                yield Completed(
                    seq=total,
                    token_ids=(),
                    text="",
                    finish=Finish.LENGTH,
                    usage=usage,
                    model_ref=CARD.ref,
                )
            else:
                if "hold" in words:
                    await self.release.wait()
                if delay:
                    await asyncio.sleep(int(delay.group(1)) * total / 1000)
                yield Completed(
                    seq=0,
                    token_ids=tuple(range(total)),
                    finish=Finish.LENGTH,
                    usage=usage,
                    text="".join(words[seq % len(words)] + " " for seq in range(total)),
                    model_ref=CARD.ref,
                )
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def authenticate(self, msg: Authenticate) -> Authenticated:
        self.asked.append(msg.credential)
        self._authenticate(msg.credential)
        tenant_id = msg.credential.removeprefix("tether-").removesuffix("-secret")
        return Authenticated(tenant_id=tenant_id, key_id=f"key of {tenant_id}")

    def _authenticate(self, credential: str) -> None:
        authenticate(credential)
        if credential in self.revoked:
            raise Unauthenticated("the API key was revoked")

    async def list_models(self, msg: ListModels) -> Catalog:
        authenticate(msg.credential)
        if msg.credential == "tether-release-secret":
            self.release.set()
        return Catalog(version=1, models=(CARD,))

    async def readiness(self, msg: Readiness) -> Ready:
        return Ready(models=(CARD.ref,))


def authenticate(credential: str) -> None:
    if not re.fullmatch(r"tether-[a-z0-9-]+-secret", credential):
        raise Unauthenticated("the API key is unknown")


class LocalStream:
    """A stream within the process: the producer runs as a task, `waiting` items are bounded
    by the credit."""

    def __init__(self, source: AsyncGenerator[Any, None], credit: int) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(credit)
        self._task = asyncio.get_running_loop().create_task(self._produce(source))

    async def _produce(self, source: AsyncGenerator[Any, None]) -> None:
        try:
            async for item in source:
                await self._queue.put(item)
            await self._queue.put(None)
        except Exception as error:
            await self._queue.put(error)
        finally:
            await source.aclose()

    @property
    def waiting(self) -> int:
        return sum(1 for item in self._queue._queue if not _is_end(item))  # type: ignore[attr-defined]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        item = await self._queue.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, Exception):
            try:
                raise item
            finally:
                del item
        return item

    def lose(self) -> None:
        """The peer is gone: what waits is thrown away, and the reader hears of it."""
        self._task.cancel()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(PeerLost("the gateway is gone"))

    def close(self, why: CancelCause = CancelCause.CANCELLED) -> None:
        self._task.cancel(why)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def _is_end(item: Any) -> bool:
    return item is None or isinstance(item, Exception)


class InProcess:
    """Road and tree over echo gateways in this loop. Addresses are `gateway-<partition>-<n>`."""

    def __init__(self, partitions: int = 1) -> None:
        self.gateways: dict[str, EchoGateway] = {}
        self._paths: dict[str, str] = {}
        self._open: dict[str, set[LocalStream]] = {}
        self._callbacks: list[Callable[[], Any]] = []
        self._generation = 0
        for partition in range(partitions):
            self.restart(partition)

    # ---- the tree

    def address(self, path: str, *, key: str = "") -> str | None:
        return self._paths.get(path)

    def failed(self, address: str) -> None:
        """There is no other one."""

    def on_change(self, callback: Callable[[], Any]) -> None:
        self._callbacks.append(callback)

    # ---- the road

    def stream(self, address: Any, contract: Any, credit: int = 64) -> LocalStream:
        gateway = self._gateway(address)
        assert isinstance(contract, Infer)
        stream = LocalStream(gateway.infer(contract), credit)
        self._open[address].add(stream)
        return stream

    async def ask(self, address: Any, contract: Any, timeout: float = 5.0) -> Any:
        gateway = self._gateway(address)
        if isinstance(contract, Authenticate):
            return await gateway.authenticate(contract)
        if isinstance(contract, ListModels):
            return await gateway.list_models(contract)
        assert isinstance(contract, Readiness)
        return await gateway.readiness(contract)

    def _gateway(self, address: Any) -> EchoGateway:
        if address not in self.gateways:
            raise PeerLost(f"{address} is gone")
        return self.gateways[address]

    # ---- kills

    def kill(self, partition: int = 0, *, told: bool = True) -> None:
        """SIGKILL: its streams are lost. With `told` false the tree has not heard of it yet."""
        path = f"control/gateways/{partition}"
        address = self._paths[path]
        del self.gateways[address]
        if told:
            del self._paths[path]
        for stream in self._open.pop(address):
            stream.lose()
        self._tell()

    def restart(self, partition: int = 0) -> EchoGateway:
        """A new process under the same path."""
        self._generation += 1
        address = f"gateway-{partition}-{self._generation}"
        gateway = self.gateways[address] = EchoGateway()
        self._open[address] = set()
        self._paths[f"control/gateways/{partition}"] = address
        self._tell()
        return gateway

    def gateway(self, partition: int = 0) -> EchoGateway:
        return self.gateways[self._paths[f"control/gateways/{partition}"]]

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()


__all__ = ["CARD", "EchoGateway", "InProcess", "TetherError"]
