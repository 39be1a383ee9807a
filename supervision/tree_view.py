"""A child's view of its node: the newest tree, pushed by the root."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from supervision.contracts import ChildKind, ChildStatus, Tree, TreeNode, WatchTree
from supervision.errors import NoAnswer, TetherError
from supervision.runtime import Actor, Address
from supervision.telemetry import logs

log = logs.get(__name__)

_PAUSE_S = 0.05  # before the root is asked again
_MAX_PAUSE_S = 1.0
_CREDIT = 2  # such streams say how it is now: what a slow reader missed is not queued


class TreeView:
    """Subscribes when it is made and stays subscribed; empty until the first tree has come."""

    def __init__(self, actor: Actor, root: str) -> None:
        self._actor = actor
        self._root = root
        self._by_path: dict[str, TreeNode] = {}
        self._callbacks: dict[object, Callable[[], object]] = {}
        self._news = asyncio.Event()
        self._first = asyncio.Event()
        self._following = actor.background(self._follow(), name="tree")

    @property
    def nodes(self) -> tuple[TreeNode, ...]:
        """All lines, parents before children."""
        return tuple(self._by_path.values())

    def node(self, path: str) -> TreeNode | None:
        """The line of `path`, in whatever state."""
        return self._by_path.get(path)

    def address(self, path: str) -> Address | None:
        """The address of the child at `path` if it runs."""
        node = self._by_path.get(path)
        return (
            Address.parse(node.address)
            if node is not None and node.state is ChildStatus.RUNNING
            else None
        )

    def under(self, prefix: str) -> list[TreeNode]:
        """The running workers (not supervisors) below `prefix`, in the order of the tree."""
        below = f"{prefix}/" if prefix else ""
        return [
            node
            for path, node in self._by_path.items()
            if path.startswith(below)
            and node.state is ChildStatus.RUNNING
            and node.kind is ChildKind.WORKER
        ]

    def partition(self, prefix: str, key: str) -> str | None:
        """The path of the child of the PartitionSupervisor at `prefix` that `key` belongs to,
        running or not; None if there is no child yet."""
        count = sum(path.rpartition("/")[0] == prefix for path in self._by_path)
        return f"{prefix}/{index_of(key, count)}" if count else None

    async def first(self, timeout: float = 5.0) -> None:
        """Wait for the first tree.

        Raises:
            NoAnswer: none came within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._first.wait()
        except TimeoutError:
            raise NoAnswer(f"no tree from the root within {timeout:g} s") from None

    async def wait(self, path: str, timeout: float = 5.0) -> Address:
        """The address of the child at `path`, as soon as it runs.

        Raises:
            NoAnswer: it didn't within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while (address := self.address(path)) is None:
                    await self._news.wait()
        except TimeoutError:
            state = self._by_path[path].state if path in self._by_path else "unknown"
            raise NoAnswer(
                f"{path} is {state} and did not run within {timeout:g} s; see `tether tree`"
            ) from None
        return address

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` after every change; the result takes the wish back."""
        key = object()
        self._callbacks[key] = callback
        return lambda: void(self._callbacks.pop(key, None))

    async def _follow(self) -> None:
        pause_s = _PAUSE_S
        while True:
            try:
                async for tree in self._actor.stream(self._root, WatchTree(), credit=_CREDIT):
                    pause_s = _PAUSE_S
                    self._take(tree)
            except TetherError as error:
                log.info("lost the tree, will ask again", error=error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(_MAX_PAUSE_S, pause_s * 2)

    def _take(self, tree: Tree) -> None:
        self._by_path = {node.path: node for node in tree.nodes}
        self._first.set()
        news, self._news = self._news, asyncio.Event()
        news.set()
        for callback in list(self._callbacks.values()):
            try:
                callback()
            except Exception:
                log.exception("a listener of the tree failed")


def index_of(key: str, partitions: int) -> int:
    """Which of `partitions` `key` belongs to: CRC-32 modulo, equal in every process and release.

    Raises:
        ValueError: there is no partition.
    """
    if partitions < 1:
        raise ValueError("a key belongs to no partition when there is none")
    return zlib.crc32(key.encode()) % partitions


def void(_: object) -> None:
    """For callbacks that must return nothing."""
