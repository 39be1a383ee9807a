"""The storage of the node, as a door sees it: what it says while a disk is full."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Protocol

from actors.stores.disk_needs import NEEDED
from supervision.contracts import ChildStatus, TreeNode
from supervision.errors import DiskFull, TetherError
from supervision.telemetry import disk
from tether.http import metrics

POSTGRES: Final = "postgres"  # its path in the tree; there is none where it runs elsewhere
LOOK_S: Final = 0.5
SCANT: Final = 1 << 20  # bytes; with less, hardly anything can be written
_AGAIN_S: Final = 1.0


class TreeRows(Protocol):
    """The live tree of the node, as far as it matters here."""

    def node(self, path: str) -> TreeNode | None: ...


class Storage:
    """The disk of the node's own PostgreSQL, looked at every `LOOK_S`.

    Args:
        folder: PostgreSQL's; empty where it runs elsewhere, and then nothing is missing here.
    """

    def __init__(self, tree: TreeRows, folder: str) -> None:
        self._tree = tree
        self._folder = Path(folder) if folder else None
        self._full = metrics.disk_full
        self.shortage = ""  # the sentence that says what is missing
        self.down = False  # PostgreSQL doesn't run because of that

    async def watch(self) -> None:
        """Look, until cancelled."""
        while self._folder is not None:
            node = self._tree.node(POSTGRES)
            down = node is not None and node.state is not ChildStatus.RUNNING
            needed = NEEDED if down else SCANT
            # in a thread: a disk may be away, too
            self.shortage = await asyncio.to_thread(disk.shortage, self._folder, needed)
            self.down = down and bool(self.shortage)
            self._full.set(bool(self.shortage))
            await asyncio.sleep(LOOK_S)

    def check(self) -> None:
        """
        Raises:
            DiskFull: nothing can be begun now.
        """
        if self.down:
            raise DiskFull(self.shortage, retry_after_s=_AGAIN_S)

    def explained(self, error: TetherError) -> TetherError:
        """`error`, or what is behind it: without its database, a node has no part that answers."""
        if not self.shortage or error.status != DiskFull.status:
            return error
        return DiskFull(f"{self.shortage}: {error.message}", retry_after_s=_AGAIN_S)
