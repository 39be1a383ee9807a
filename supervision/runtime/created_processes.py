"""The processes that one actor has created, from the order to Thespian to their exits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from supervision.capability import Capability, named
from supervision.errors import NoAnswer, Unavailable
from supervision.runtime.address import Address
from supervision.runtime.thespian_base import TetherManager


class CreatedProcesses:
    """Knows them by Thespian's number until they are up, and by address from then on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, manager: TetherManager) -> None:
        self._loop = loop
        self._manager = manager
        self._expected: dict[int, asyncio.Future[Address]] = {}
        self._up: set[Address] = set()
        self._unwanted: set[int] = set()  # asked of other nodes, and given up since

    async def create(
        self,
        name: str,
        make: Callable[[], Any],
        requires: Mapping[str, Capability],
        timeout: float,
    ) -> Address:
        """Where the actor of the class `name` is that `make` has Thespian create.

        Raises:
            Unavailable: the process ended before it was up, or no node has what it requires.
            NoAnswer: it wasn't up within `timeout` seconds, and was killed.
        """
        made = make()
        instance = made.addressDetails.addressInstanceNum
        process = self._manager.child_process(instance)
        if process is None and not requires:
            raise Unavailable(f"{name} could not be started")
        up: asyncio.Future[Address] = self._loop.create_future()
        self._expected[instance] = up
        try:
            async with asyncio.timeout(timeout):
                return await up
        except BaseException as error:
            if process is not None:
                process.abandon()
            elif not up.done() or up.cancelled():
                self._unwanted.add(instance)
            if isinstance(error, TimeoutError):
                raise NoAnswer(f"{name} was not up within {timeout} s") from error
            if isinstance(error, Unavailable) and process is None:
                why = (
                    f"no node of the convention has {named(requires)}, or it was not started there"
                )
                raise Unavailable(f"{name}: {why}") from error
            raise
        finally:
            self._expected.pop(instance, None)

    def came_up(self, instance: int, address: Address) -> bool:
        """The process with Thespian's number `instance` has connected. False if nobody waits for
        it any more, so that it has to end."""
        if instance in self._unwanted:
            self._unwanted.discard(instance)
            return False
        self._up.add(address)
        up = self._expected.get(instance)
        if up is not None and not up.done():
            up.set_result(address)
        return True

    def exited(self, address: Any) -> bool:
        """A process is gone, at an Address or at Thespian's number of one that wasn't up. True if
        it is one that was up, once."""
        if not isinstance(address, Address):
            instance = getattr(address, "addressInstanceNum", -1)
            self._unwanted.discard(instance)
            up = self._expected.get(instance)
            if up is not None and not up.done():
                up.set_exception(Unavailable("the process of the actor ended before it was up"))
            return False
        if address not in self._up:
            return False
        self._up.discard(address)
        return True
