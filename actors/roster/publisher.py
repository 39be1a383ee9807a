"""The publisher of this node's announcements: to all other rosters, regularly and on change.

An announcement is made and signed once, and every other node has a task of its own that brings it
there: only the newest counts, so a node that is slow, or away, misses the ones between and delays
nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from actors.contracts import Announce, Announced
from actors.roster import metrics
from actors.roster.announcement import Refusal
from actors.roster.options import OtherNode
from supervision.child import Supervised
from supervision.errors import Overloaded, PeerLost, TetherError
from supervision.runtime import Address
from supervision.telemetry.bounded_log import BoundedLog

GAP_S: Final = 0.1  # between two announcements, however much changes
LOAD_S: Final = 1.0  # between two of them, if nothing but load has changed
SAY_S: Final = 3.0
PAUSE_S: Final = 0.25  # after a failure, and twice as long each time
FAREWELL_S: Final = 1.0

heard = BoundedLog(__name__)

Find = Callable[[OtherNode], Awaitable[Address]]


class Sealed:
    """An announcement, ready to be brought; `number` counts those of this process."""

    __slots__ = ("announce", "epoch", "number")

    def __init__(self, number: int, epoch: int, announce: Announce) -> None:
        self.number = number
        self.epoch = epoch
        self.announce = announce


class Outlet:
    """What is known of one other node's roster."""

    __slots__ = ("address", "brought", "met", "node", "reached", "tried")

    def __init__(self, node: OtherNode) -> None:
        self.node = node
        self.address: Address | None = None
        self.tried: Address | None = None
        self.met = asyncio.Event()
        self.brought = 0  # the newest number that it has
        self.reached = True


class Publisher:
    """
    Args:
        every_s: seconds between announcements when nothing changes.
        seal: makes and signs an announcement; None while that can't be done.
        find: the address of another node's roster; raises TetherError if it can't be found.
        answered: hears what the others say to announcements.
        lost: hears of nodes that nobody could be reached at.
    """

    def __init__(
        self,
        actor: Supervised,
        others: tuple[OtherNode, ...],
        every_s: float,
        *,
        seal: Callable[[int], Sealed | None],
        find: Find,
        answered: Callable[[OtherNode, Announced], object],
        lost: Callable[[OtherNode], Awaitable[object]],
    ) -> None:
        self._actor = actor
        self._every_s = every_s
        self._seal = seal
        self._find = find
        self._answered = answered
        self._lost = lost
        self._outlets = {node.id: Outlet(node) for node in others}
        self._changed = asyncio.Event()
        self._changed.set()
        self._news = asyncio.Event()
        self._moved = asyncio.Event()  # somebody has got one
        self._sealed: Sealed | None = None
        self._numbers = 0
        self._made_at = float("-inf")
        self._later: asyncio.TimerHandle | None = None
        self._sent = metrics.announcements_sent.labels("taken")
        self._refused = metrics.announcements_sent.labels("refused")
        self._failed = metrics.announcements_sent.labels("failed")

    def start(self) -> None:
        """Begin to announce."""
        self._actor.background(self._make(), name="announce")
        for outlet in self._outlets.values():
            self._actor.background(self._bring(outlet), name=f"announce to {outlet.node.id}")

    def changed(self) -> None:
        """There is something new to say: soon."""
        self._changed.set()

    def load_changed(self) -> None:
        """There is something new to say, and no hurry: hearers pay for each signature."""
        if self._later is None:
            loop = self._actor.loop
            delay_s = max(0.0, self._made_at + LOAD_S - loop.time())
            self._later = loop.call_later(delay_s, self._by_now)

    def _by_now(self) -> None:
        self._later = None
        self._changed.set()

    def met(self, node: str, address: Address) -> None:
        """The roster of that node has spoken to us from there."""
        outlet = self._outlets[node]
        if outlet.address != address:
            outlet.address = address
            outlet.met.set()

    def address(self, node: str) -> Address | None:
        """Of the roster of that node, as far as it is known."""
        return self._outlets[node].address

    @property
    def next_number(self) -> int:
        """Of the announcement that is made next."""
        return self._numbers + 1

    async def delivered(self, number: int, nodes: frozenset[str], within_s: float) -> set[str]:
        """Waits until all `nodes` have announcement `number`, or a later one; those that have."""
        try:
            async with asyncio.timeout(within_s):
                while len(have := self._having(number, nodes)) < len(nodes):
                    await self._moved.wait()
                return have
        except TimeoutError:
            return self._having(number, nodes)

    def _having(self, number: int, nodes: frozenset[str]) -> set[str]:
        return {node for node in nodes if self._outlets[node].brought >= number}

    async def farewell(self) -> None:
        """Says a last thing to all who can be reached at once."""
        sealed = self._next()
        if sealed is None:
            return
        asks = [
            self._actor.ask(outlet.address, sealed.announce, FAREWELL_S)
            for outlet in self._outlets.values()
            if outlet.address is not None
        ]
        await asyncio.gather(*asks, return_exceptions=True)

    # ---- making

    def _next(self) -> Sealed | None:
        sealed = self._seal(self._numbers + 1)
        if sealed is not None:
            self._numbers += 1
            self._sealed = sealed
            self._made_at = self._actor.loop.time()
        return sealed

    async def _make(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._next() is None:
                self._changed.set()  # the identity isn't read yet
            else:
                news, self._news = self._news, asyncio.Event()
                news.set()
            await asyncio.sleep(GAP_S)

    # ---- bringing

    async def _bring(self, outlet: Outlet) -> None:
        pause_s = PAUSE_S
        while True:
            sealed = self._sealed
            if sealed is None or sealed.number == outlet.brought:
                await self._news.wait()
                continue
            outlet.met.clear()
            try:
                await self._bring_one(outlet, sealed)
            except TetherError as error:
                await self._could_not(outlet, error)
                try:
                    async with asyncio.timeout(pause_s):
                        await outlet.met.wait()  # it has found us: no need to wait longer
                except TimeoutError:
                    pause_s = min(2 * pause_s, self._every_s)
            else:
                pause_s = PAUSE_S

    async def _bring_one(self, outlet: Outlet, sealed: Sealed) -> None:
        if outlet.address is None:
            outlet.address = await self._find(outlet.node)
        outlet.tried = outlet.address
        answer = await self._actor.ask(outlet.tried, sealed.announce, SAY_S)
        if not isinstance(answer, Announced):
            raise Overloaded(f"node {outlet.node.id} has answered with something else")
        outlet.brought = sealed.number
        if not outlet.reached:
            outlet.reached = True
            heard.info("another node hears us again", outlet.node.id, node=outlet.node.id)
        # REPLAYED: it has it, and its first answer was lost.
        taken = not answer.refused or answer.refused == Refusal.REPLAYED
        (self._sent if taken else self._refused).inc()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        self._answered(outlet.node, answer)

    async def _could_not(self, outlet: Outlet, error: TetherError) -> None:
        self._failed.inc()
        if outlet.address == outlet.tried:  # else it has told us a new one meanwhile
            outlet.address = None
        if outlet.reached:
            outlet.reached = False
            heard.info(
                "another node can't be told",
                outlet.node.id,
                node=outlet.node.id,
                error=error.message,
            )
        if isinstance(error, PeerLost):
            await self._lost(outlet.node)
