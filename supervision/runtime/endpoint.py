"""The way into a node for processes that are no actors: front doors, commands, tests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from thespian.system.messages.admin import PendingActor, PendingActorResponse

from supervision.contracts import Contract
from supervision.errors import (
    Forbidden,
    NoAnswer,
    PeerLost,
    ProtocolError,
    TetherError,
    Unavailable,
)
from supervision.runtime.address import Address, address_of
from supervision.runtime.connections import Connections
from supervision.runtime.options import DEFAULT_PORT, NodeOptions
from supervision.runtime.peer import Peer
from supervision.runtime.sockets import fresh_name
from supervision.runtime.streams import Stream
from supervision.runtime.system_road import SystemRoad
from supervision.runtime.thespian_base import REFUSED, class_name
from supervision.runtime.transport import border_of
from supervision.runtime.wire import MAX_FRAME
from supervision.telemetry import logs

CONNECT_PAUSE = 0.02  # seconds between attempts on a node that is still starting

log = logs.get(__name__)


class Endpoint:
    """Asks and streams from the loop it was entered on::

    async with Endpoint.connect(run_dir="/run/tether", node="n1") as endpoint:
        answer = await endpoint.ask(address, contract)
    """

    def __init__(self, options: NodeOptions, timeout: float, *, alone: bool = False) -> None:
        self._options = options
        self._timeout = timeout
        self._alone = alone
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[PendingActorResponse]] = {}
        self._hub: Connections
        self.admin = options.admin
        self.address = Address(options.node, fresh_name())
        self._road = SystemRoad(self.address)

    @classmethod
    def connect(
        cls,
        *,
        run_dir: str,
        node: str,
        port: int = DEFAULT_PORT,
        max_frame: int = MAX_FRAME,
        timeout: float = 10.0,
        identity_dir: str = "",
        routes: Mapping[str, str] = {},
        alone: bool = False,
    ) -> Endpoint:
        """An endpoint of the node `node`, to be entered with `async with`. `port` is the Admin
        port, which is part of the Admin's address. Entering waits up to `timeout` seconds for the
        node. With `identity_dir` it reaches other nodes as well, at `routes`; see
        `supervision.runtime.options`. If it is to be `alone`, it doesn't wait for its own node,
        which may not run.

        Raises, on entering:
            Unavailable: no node answers there.
            ValueError: the run directory is too long for a socket.
        """
        options = NodeOptions(
            node=node,
            port=port,
            run_dir=run_dir,
            max_frame=max_frame,
            identity_dir=identity_dir,
            routes=tuple(routes.items()),
        )
        return cls(options, timeout, alone=alone)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._hub = Connections(
            loop,
            self._options.run_dir,
            self.address,
            max_frame=self._options.max_frame,
            border=border_of(self._options, None),
        )
        self._hub.on_system = self._arrived
        await self._hub.start()
        try:
            async with asyncio.timeout(self._timeout):
                if not self._alone:
                    await self._reach()
        except TimeoutError:
            self._hub.close()
            raise Unavailable(
                f"no node {self.admin.node} answers in {self._options.run_dir}: is it up?"
            ) from None
        except BaseException:
            self._hub.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections; what still waits gets PeerLost."""
        for future in self._pending.values():
            if not future.done():
                future.set_exception(PeerLost("the endpoint was closed"))
        self._hub.close()
        await asyncio.sleep(0)

    async def _reach(self) -> None:
        """Returns when the Admin has answered; it may still be starting."""
        while True:
            peer = self._hub.peer(self.admin)
            if await peer.reachable():
                return
            await asyncio.sleep(CONNECT_PAUSE)

    @property
    def admin_pid(self) -> int:
        """The process of the node's Admin, as the kernel says."""
        return self._hub.peer(self.admin).pid

    async def ask(self, address: Address | str, contract: Contract, timeout: float = 5.0) -> Any:
        """See `Actor.ask`."""
        return await self._hub.ask(address_of(address), contract, timeout)

    def stream(self, address: Address | str, contract: Contract, credit: int = 64) -> Stream:
        """See `Actor.stream`."""
        return self._hub.stream(address_of(address), contract, credit)

    def tell(self, address: Address | str, contract: Contract) -> None:
        """See `Actor.tell`."""
        self._hub.tell(address_of(address), contract)

    def watch(self, address: Address | str, callback: Callable[[], object]) -> Callable[[], None]:
        """See `Actor.watch`."""
        return self._hub.watch(address_of(address), callback)

    def route(self, node: str, where: str | None) -> None:
        """See `Actor.route`."""
        self._hub.route(node, where)

    async def create(
        self, actor_class: type | str, *, timeout: float = 30.0, global_name: str | None = None
    ) -> Address:
        """Has the Admin start an actor. With `global_name` the actor of that name is returned
        if there is one, else the new one gets the name.

        Raises:
            Forbidden: the class is not on the node's list.
            Unavailable: it could not be started.
            PeerLost: the Admin is gone.
            NoAnswer: it wasn't up within `timeout` seconds.
        """
        number = next(self._numbers)
        request = PendingActor(class_name(actor_class), None, number, None, globalName=global_name)
        payload = self._road.write(request, self.admin)
        assert payload is not None  # it goes to the own node
        answer: asyncio.Future[PendingActorResponse] = self._hub.loop.create_future()
        self._pending[number] = answer

        def lost() -> None:
            if not answer.done():
                answer.set_exception(PeerLost("the Admin is gone"))

        cancel = self._hub.watch(self.admin, lost)
        self._hub.system(self.admin, payload, lambda failure: lost() if failure else None)
        try:
            async with asyncio.timeout(timeout):
                response = await answer
        except TimeoutError:
            raise NoAnswer(f"{class_name(actor_class)} was not up within {timeout} s") from None
        finally:
            cancel()
            self._pending.pop(number, None)
        if response.errorCode:
            raise _refusal(class_name(actor_class), response)
        return address_of(response.actualAddress)

    async def lookup(self, global_name: str, *, timeout: float = 5.0) -> Address | None:
        """The actor that was created under `global_name`, or None."""
        try:
            # A name that is taken is answered before anything is started, and no class of
            # this name is on any list.
            return await self.create("-.Nobody", timeout=timeout, global_name=global_name)
        except (Forbidden, Unavailable) as error:
            if isinstance(error, PeerLost | NoAnswer):
                raise
            return None

    def _arrived(self, peer: Peer, payload: bytes) -> None:
        try:
            message = self._road.read(peer.address, payload)
        except ProtocolError:  # the road has counted it
            return
        if isinstance(message, PendingActorResponse) and peer.address == self.admin:
            answer = self._pending.get(message.instanceNum)
            if answer is not None and not answer.done():
                answer.set_result(message)


def _refusal(name: str, response: PendingActorResponse) -> TetherError:
    if REFUSED in (response.errorStr or ""):
        return Forbidden(response.errorStr)
    return Unavailable(
        f"{name} could not be started: error {response.errorCode:#x} {response.errorStr or ''}"
    )
