"""The driver of a tree of decisions: the clock it is told, the timer it asks for, its actions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from supervision.actions import Action
from supervision.tree import SupervisionTree

_TICK_S: Final = 0.001


class TreeDriver:
    """Tells `tree` the time, and has `carry_out` do what it decides, one action at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tree: SupervisionTree,
        carry_out: Callable[[Action], object],
    ) -> None:
        self.tree = tree
        self._loop = loop
        self._carry_out = carry_out
        self._timer: asyncio.TimerHandle | None = None
        self._told = 0.0  # the time that the tree was last told
        self._forsaken = False
        self._news: asyncio.Event | None = None

    def now(self) -> float:
        """The time to tell the tree, monotonic, in seconds."""
        self._told = self._loop.time()
        return self._told

    def perform(self, actions: Sequence[Action]) -> None:
        """Carry out what the tree has just decided."""
        told = self._told
        if self._forsaken:
            return
        for action in actions:
            self._carry_out(action)
        if actions and self._news is not None:
            self._news.set()
            self._news = None
        self._arm(told)

    async def changed(self) -> None:
        """Returns when something has happened to the tree."""
        if self._news is None:
            self._news = asyncio.Event()
        await self._news.wait()

    def rest(self) -> None:
        """The tree has finished: no timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forsake(self) -> None:
        """Carry out nothing from now on: the children end by themselves."""
        self._forsaken = True

    def _arm(self, told: float) -> None:
        """Set the timer. `told` is the time that the tree decided by: what fell due since then
        has still to be ticked, and the clock does go on in between."""
        self.rest()
        due = self.tree.wakeup(told)
        if due is not None:
            self._timer = self._loop.call_later(max(_TICK_S, due - self._loop.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.perform(self.tree.tick(self.now()))
