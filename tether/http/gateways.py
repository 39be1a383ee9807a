"""The gateways behind a front door: which one answers, and what happens when it goes away.

A tenant belongs to one gateway partition, by a stable hash of the tenant's part of the key, so
that its rate limits and sessions are in one place. When that gateway is lost in the middle of an
answer, the stream is taken up again at the next token through the restarted one. A door of a
node without gateways asks those of control nodes, for one tenant the same while that is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from actors.contracts import (
    Authenticate,
    Authenticated,
    Catalog,
    Chunk,
    Completed,
    Govern,
    Infer,
    ListModels,
    ModelsShown,
    MoveModel,
    Readiness,
    Ready,
    RegisterModel,
    ShowModels,
)
from actors.contracts.governing import Administer, AdminRequest
from supervision.contracts import Contract
from supervision.errors import Draining, Internal, PeerLost, TetherError, Unavailable
from supervision.runtime.cancel_cause import CancelCause
from supervision.telemetry import logs
from supervision.tree_view import index_of
from tether.http import metrics
from tether.http.caller import tenant_of

ROOT = "control/gateways"
MAX_REOPENS = 8
STUBBORN_S = 0.5  # how long a lost gateway must be gone before its old address is tried again
CREDIT = 64
GOVERN_S = 30.0  # an artifact's signature may have to be looked at

C = TypeVar("C", bound=Contract)

log = logs.get(__name__)


Batches = AsyncGenerator[list[Chunk | Completed], None]


class Items(Protocol):
    """A stream of contracts. `waiting` counts those that can be taken at once; closing it
    cancels the producer."""

    @property
    def waiting(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def aclose(self) -> object: ...

    def close(self, why: CancelCause = ...) -> object: ...


class Road(Protocol):
    """How contracts reach an actor; every actor and every endpoint is one."""

    def stream(self, address: Any, contract: Contract, credit: int = 64) -> Items: ...

    async def ask(self, address: Any, contract: Contract, timeout: float = 5.0) -> Any: ...


class GatewayLookup(Protocol):
    """Where actors of the control chain are (see `actors.core.control_lookup`), as far as it
    matters here."""

    def address(self, path: str, *, key: str = "") -> Any: ...

    def failed(self, address: Any) -> None: ...

    def on_change(self, callback: Callable[[], Any]) -> Any: ...


class Gateways:
    """The gateways that a front door asks: of its node, or of a control node.

    Args:
        road: asks and streams.
        control: where the gateways are.
        partitions: how many there should be, whether they run or not.
        wait_s: how long a request waits for its gateway to come (back) up.
    """

    def __init__(
        self, road: Road, control: GatewayLookup, *, partitions: int, wait_s: float
    ) -> None:
        self._road = road
        self._control = control
        self._wait_s = wait_s
        self._paths = [f"{ROOT}/{number}" for number in range(partitions)]
        self._changed = asyncio.Event()
        control.on_change(self._control_changed)

    async def answer(self, infer: Infer, remaining_s: Callable[[], float]) -> Batches:
        """The items of one answer, each token once and in order, whatever happens to gateways;
        what has arrived together comes as one list. Ends after `Completed` or raises.
        `remaining_s` tells the seconds left.

        Raises:
            Unavailable: no gateway came up in time, or gateways were lost again and again.
            Internal: a gateway broke the contract of the stream.
            TetherError: whatever the gateway said.
        """
        tenant = tenant_of(infer.credential)
        path = self._path(tenant)
        seq = infer.from_seq
        lost: Any = None
        for attempt in range(MAX_REOPENS + 1):
            address = self._control.address(path, key=tenant) if lost is None else None
            if address is None:
                wait_s = min(self._wait_s, remaining_s())
                address = await self._find(path, tenant, lost, wait_s)
                infer = msgspec.structs.replace(
                    infer, from_seq=seq, deadline_s=remaining_s(), is_resume=lost is not None
                )
            items: Items | None = None
            batch: list[Chunk | Completed] = []
            try:
                items = self._road.stream(address, infer, CREDIT)
                async for item in items:
                    if item.seq == seq:
                        seq += len(item.token_ids)
                        batch.append(item)
                    elif not _said_before(item, seq):
                        raise Internal(f"a gateway went on at token {item.seq} instead of {seq}")
                    if isinstance(item, Completed):
                        yield batch
                        return
                    if batch and not items.waiting:
                        yield batch
                        batch = []
                raise PeerLost("a gateway ended a stream before the answer was complete")
            except (PeerLost, Draining) as error:
                if attempt == MAX_REOPENS:
                    raise
                lost = address
                self._control.failed(lost)
                metrics.http_streams_reopened.inc()
                log.warning(
                    "gateway lost", path=path, seq=seq, attempt=attempt + 1, error=error.message
                )
            except asyncio.CancelledError as cancelled:
                if items is not None:
                    items.close(_why(cancelled))
                raise
            finally:
                if items is not None:
                    await items.aclose()

    async def authenticate(self, credential: str) -> Authenticated:
        """Whose key it is. Raises as `answer` does, and Unauthenticated if it is none."""
        return await self._ask(credential, Authenticate(credential=credential), Authenticated)

    async def models(self, credential: str) -> Catalog:
        """What this credential may ask for. Raises as `answer` does."""
        return await self._ask(credential, ListModels(credential=credential), Catalog)

    async def govern(
        self, credential: str, request: RegisterModel | MoveModel | ShowModels
    ) -> ModelsShown:
        """What the registry answers to an operator. Raises as `answer` does, and what the registry
        says; Forbidden if the key is no operator's."""
        ask = Govern(credential=credential, request=request)
        return await self._ask(credential, ask, ModelsShown, GOVERN_S)

    async def administer(self, credential: str, request: AdminRequest, kind: type[C]) -> C:
        """What the registry answers to an operator about limits, budgets and prices. Raises as
        `govern` does."""
        ask = Administer(credential=credential, request=request)
        return await self._ask(credential, ask, kind, GOVERN_S)

    async def _ask(
        self, credential: str, ask: Contract, kind: type[C], timeout_s: float = 5.0
    ) -> C:
        tenant = tenant_of(credential)
        path = self._path(tenant)
        lost: Any = None
        for attempt in range(3):
            address = self._control.address(path, key=tenant) if lost is None else None
            if address is None:
                address = await self._find(path, tenant, lost, self._wait_s)
            try:
                found = await self._road.ask(address, ask, timeout_s)
            except (PeerLost, Draining):
                if attempt == 2:
                    raise
                lost = address
                self._control.failed(lost)
                continue
            if not isinstance(found, kind):
                name = type(ask).__name__
                raise Internal(f"a gateway answered {name} with {type(found).__name__}")
            return found
        raise Unavailable("no gateway answers", retry_after_s=2.0)

    async def ready(self, timeout_s: float = 2.0) -> tuple[str, ...]:
        """The models that answer now, by any gateway; empty if there is none. Never waits for
        a gateway to come up."""
        addresses = [a for a in map(self._control.address, self._paths) if a is not None]
        answers = await asyncio.gather(
            *(self._road.ask(address, Readiness(), timeout_s) for address in addresses),
            return_exceptions=True,
        )
        found: set[str] = set()
        for answer in answers:
            if isinstance(answer, Ready):
                found.update(answer.models)
            elif isinstance(answer, BaseException) and not isinstance(answer, TetherError):
                raise answer
        return tuple(sorted(found))

    def _path(self, tenant: str) -> str:
        paths = self._paths
        if len(paths) == 1:
            return paths[0]
        return paths[index_of(tenant, len(paths))]

    async def _find(self, path: str, tenant: str, lost: Any, timeout_s: float) -> Any:
        """The address at `path`, but for a while not the one just lost: the tree hears of an
        exit a little later than the connection does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        again = loop.time() + STUBBORN_S
        while True:
            address = self._control.address(path, key=tenant)
            now = loop.time()
            if address is not None and (address != lost or now >= again):
                return address
            if now >= end:
                raise Unavailable(
                    f"no gateway is up and none came within {timeout_s:.0f} s; try again",
                    retry_after_s=2.0,
                )
            until = min(end, again) if address is not None else end
            try:
                await asyncio.wait_for(self._changed.wait(), until - now)
            except TimeoutError:
                continue

    def _control_changed(self, *_: Any) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _why(cancelled: asyncio.CancelledError) -> CancelCause:
    """What the gateway is told: a client that hangs up says so (see `cancellation`), and whatever
    else cancels is the end of this server."""
    by_client = cancelled.args[:1] == (CancelCause.CANCELLED,)
    return CancelCause.CANCELLED if by_client else CancelCause.LEAVING


def _said_before(item: Chunk | Completed, seq: int) -> bool:
    """Whether all of a chunk was passed on before its stream was reopened."""
    return isinstance(item, Chunk) and item.seq + len(item.token_ids) <= seq
