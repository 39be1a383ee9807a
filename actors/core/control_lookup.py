"""Where actors of the control chain are: at this node, and at others that its roster knows of.

A node without the role control has a roster and nothing more of the chain. Its workers settle at
any control node and learn the catalog there; its front doors ask the gateways there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from actors.contracts import ControlPlane, WatchControlPlane
from actors.core.control_preference import HeldAddresses, candidates
from supervision.child import Supervised
from supervision.errors import NoAnswer
from supervision.follower import Follower
from supervision.runtime import Address
from supervision.telemetry.bounded_log import BoundedLog

ROSTER: Final = "control/roster"

heard = BoundedLog(__name__)


class ControlLookup:
    """
    Args:
        elsewhere: there may be control nodes beside this one; without it, it is the own tree.
        region: the own one.
    """

    def __init__(self, actor: Supervised, *, elsewhere: bool = False, region: str = "") -> None:
        self._actor = actor
        self._elsewhere = elsewhere
        self._region = region
        self._plane = ControlPlane()
        self._held = HeldAddresses()
        self._news = asyncio.Event()
        self._callbacks: list[Callable[[], object]] = []
        if elsewhere:
            following = Follower(actor, ROSTER, WatchControlPlane(), self._see)
            actor.background(following.run(), name="control plane")
            actor.tree.on_change(self._changed)

    def address(self, path: str, *, key: str = "", near: str = "") -> Address | None:
        """The best address at `path` now (see `candidates`); None if there is none."""
        own = self._actor.tree.address(path)
        if not self._elsewhere:
            return own
        found = candidates(
            path,
            None if own is None else str(own),
            self._plane,
            region=self._region,
            near=near,
            key=key,
            held=self._held.now(self._actor.loop.time()),
        )
        return Address.parse(found[0]) if found else None

    def failed(self, address: Address) -> None:
        """Who is there didn't do what it was asked: another one is asked first for a while."""
        self._held.failed(str(address), self._actor.loop.time())

    async def wait(self, path: str, timeout: float = 5.0, *, near: str = "") -> Address:
        """The best address at `path`, as soon as there is one.

        Raises:
            NoAnswer: there was none within `timeout` seconds.
        """
        if not self._elsewhere:
            return await self._actor.tree.wait(path, timeout)
        try:
            async with asyncio.timeout(timeout):
                while (address := self.address(path, near=near)) is None:
                    await self._news.wait()
        except TimeoutError:
            raise NoAnswer(
                f"no control node is known where {path} runs, and none came within {timeout:g} s; "
                "see `tether cluster status`"
            ) from None
        return address

    def finder(self, path: str, near: str = "") -> Callable[[float], Awaitable[Address]]:
        """Finds, given the seconds that it may take, who is to be asked next: whom it has found
        before has failed since."""
        last: Address | None = None

        async def find(within_s: float) -> Address:
            nonlocal last
            if last is not None:
                self.failed(last)
            before, last = last, await self.wait(path, within_s, near=near)
            if self._elsewhere and before is not None and before.node != last.node:
                heard.info(
                    "asks another control node",
                    (path, last.node),
                    path=path,
                    node=last.node,
                    before=before.node,
                )
            return last

        return find

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever an address may have changed, for as long as the actor lives."""
        self._callbacks.append(callback)
        if not self._elsewhere:
            self._actor.tree.on_change(callback)

    def _see(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._changed()

    def _changed(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        for callback in self._callbacks:
            callback()
