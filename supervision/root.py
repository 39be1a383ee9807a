"""The supervisor at the top of a node: it has no parent, and knows the whole tree."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from supervision.contracts import (
    AwaitPredecessors,
    ChildChanged,
    ChildKind,
    ChildStatus,
    ExitReason,
    PredecessorsGone,
    ShowTree,
    StartChild,
    StopChild,
    Tree,
    TreeNode,
    WatchTree,
)
from supervision.directory import Directory
from supervision.errors import NoAnswer, PeerLost
from supervision.lineage import Lineage
from supervision.runtime import Address, Endpoint, on
from supervision.security.audience import NODE, OPERATOR, OWN
from supervision.spec import SupervisorOptions
from supervision.supervisor import Supervisor
from supervision.telemetry import bounds, logs

_PACE_S: Final = 0.01  # between two trees to the same watcher
_MAX_ROWS: Final = 16_384
_MAX_DEAD: Final = 256

log = logs.get(__name__)


class Root(Supervisor):
    """Keeps the table of all children of the node, and streams it to whoever watches."""

    async def started(self) -> None:
        """Whoever made this root may watch the tree before there is one."""
        self._directory = Directory()
        self._news = asyncio.Event()
        self._shown: tuple[int, Tree] = (-1, Tree(nodes=()))
        self._tellers: dict[str, Address] = {}  # by path of the supervisor
        self._bygone: OrderedDict[Address, None] = OrderedDict()
        # Of children that aren't our own. Their supervisor would sweep, but may be gone.
        self._lineage = Lineage(self.loop, self._hub.sweep_sockets)
        self._rows = bounds.used.labels("tree rows")
        self._refused = bounds.refused.labels("tree rows")

    def plan(self, options: Any) -> Any:
        self._apply(
            TreeNode(
                path="",
                kind=ChildKind.SUPERVISOR,
                state=ChildStatus.RUNNING,
                address=str(self.address),
                pid=self.pid,
                generation=self.generation,
                strategy=str(options.strategy),
            )
        )
        return super().plan(options)

    @on(ShowTree, of=NODE | OPERATOR)
    def _show(self, msg: ShowTree, sender: Address) -> Tree:
        return self._directory.tree(self.loop.time())

    @on(WatchTree, of=NODE)
    async def _watch(self, msg: WatchTree, sender: Address) -> AsyncIterator[Tree]:
        seen = -1
        while True:
            while self._directory.version == seen:
                await self._news.wait()
            seen = self._directory.version
            yield self._newest()
            await asyncio.sleep(_PACE_S)

    @on(AwaitPredecessors, of=OWN)
    async def _predecessors(self, msg: AwaitPredecessors, sender: Address) -> PredecessorsGone:
        await self._lineage.alone(msg.path, msg.pid)
        return PredecessorsGone()

    @on(ChildChanged, of=OWN)
    def _changed(self, msg: ChildChanged, sender: Address) -> None:
        if sender in self._bygone:
            return  # it was read after the supervisor's end was seen, and would stay for ever
        self._tellers[msg.node.path.rpartition("/")[0]] = sender
        self._apply(msg.node)

    def tell_root(self, node: TreeNode) -> None:
        """The root is here."""
        self._apply(node)

    def _apply(self, node: TreeNode) -> None:
        if len(self._directory) >= _MAX_ROWS and self._directory.get(node.path) is None:
            self._refused.inc()
            return
        if node.pid == 0:
            for path in [p for p in self._tellers if f"{p}/".startswith(f"{node.path}/")]:
                self._bygone[self._tellers.pop(path)] = None
            while len(self._bygone) > _MAX_DEAD:
                self._bygone.popitem(last=False)
        for orphan in self._directory.apply(node, self.loop.time()):
            self._lineage.orphan(orphan.path)
        if "/" in node.path and self._is_here(node):
            self._lineage.runs(node.path, node.pid)
        self._rows.set(len(self._directory))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _is_here(self, node: TreeNode) -> bool:
        """Is that a process of this node? One without an address is nobody's to be killed; a child
        that was placed at another node has a process id of that one."""
        if not node.address or not node.pid:
            return False
        address = Address.parse(node.address)
        return address.node == self.address.node and address.pid == node.pid

    def _newest(self) -> Tree:
        if self._shown[0] != self._directory.version:
            self._shown = (self._directory.version, self._directory.tree(self.loop.time()))
        return self._shown[1]


async def start_tree(
    endpoint: Endpoint, options: SupervisorOptions, *, timeout: float | None = None
) -> Address:
    """Start a root supervisor with all its children on the node of `endpoint`.

    Raises:
        TetherError: it didn't start; nothing of it is left.
    """
    root = await endpoint.create(Root)
    start = StartChild(
        path="", generation=1, parent="", root="", args=msgspec.msgpack.encode(options)
    )
    await endpoint.ask(root, start, timeout=timeout or options.start_timeout_s)
    return root


async def stop_tree(endpoint: Endpoint, root: Address, *, timeout: float = 60.0) -> None:
    """Stop all children in reverse order, and wait for the root's process to end.

    Raises:
        NoAnswer: it took longer than `timeout` seconds.
    """
    gone = asyncio.Event()
    cancel = endpoint.watch(root, gone.set)
    try:
        async with asyncio.timeout(timeout):
            try:
                stop = StopChild(deadline_s=timeout, reason=ExitReason.SHUTDOWN)
                await endpoint.ask(root, stop, timeout=timeout)
            except PeerLost:
                pass
            await gone.wait()
    except TimeoutError:
        raise NoAnswer(f"the tree did not stop within {timeout:g} s") from None
    finally:
        cancel()
