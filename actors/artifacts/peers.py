"""Other nodes as a source: what is asked of them, and which of them is asked next.

A peer is no more believed than a replica: what it sends is checked against the manifest, and that
against its digest. One that sends bad bytes, or is gone, is not asked again for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from actors.artifacts import metrics
from supervision.errors import Unavailable
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)

_T = TypeVar("_T")
BUSY_S: Final = 0.5  # until a peer that has its hands full is asked again, unless it says when
MAX_BUSY_S: Final = 10.0
LOOK_S: Final = 15.0  # between two questions who has an artifact, while somebody waits for it


class Trouble(StrEnum):
    """Why a peer did not give what it was asked for; and for how long it is left alone then."""

    MISSING = "missing"  # it has no such artifact (any more), or may not lend it
    CORRUPT = "corrupt"  # it sent other bytes than it should have
    UNREACHABLE = "unreachable"  # it does not answer, or not in time
    BUSY = "busy"  # it lends as much as it may already

    @property
    def rest_s(self) -> float:
        """Seconds in which this node is not asked for anything."""
        return _REST_S[self]


_REST_S: Final = {
    Trouble.MISSING: 0.0,
    Trouble.CORRUPT: 600.0,
    Trouble.UNREACHABLE: 30.0,
    Trouble.BUSY: 0.0,
}


class PeerFault(Unavailable):
    """A peer could not give what it was asked for; `trouble` says which way."""

    def __init__(
        self, node: str, trouble: Trouble, sentence: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(sentence, retry_after_s=retry_after_s)
        self.node = node
        self.trouble = trouble


class ArtifactPeer(Protocol):
    """A node that has the artifact in question. Each method raises `PeerFault` only."""

    @property
    def node(self) -> str:
        """Its id."""

    async def manifest(self, most: int) -> bytearray:
        """At most `most` bytes, which may be anything."""

    async def signatures(self, most: int) -> list[bytes]:
        """Each of at most `most` bytes, which may be anything."""

    async def block(self, file: str, index: int, size: int) -> bytearray:
        """`size` bytes, which may be anything."""


class Peers(Protocol):
    """The other nodes of the cluster, for one fetch: used on one loop, and closed after it."""

    async def near(self, artifact: str) -> Sequence[ArtifactPeer]:
        """Those of the own region that have it whole. Raises nothing."""

    async def far(self, artifact: str) -> Sequence[ArtifactPeer]:
        """Those of other regions that have it whole. Raises nothing."""

    def leave_alone(self, node: str, seconds: float) -> None:
        """Don't name this node again for so long, not in later fetches either."""

    async def aclose(self) -> None:
        """Let go of all connections. Safe twice."""


class _Known:
    """What is known of a peer in this fetch."""

    __slots__ = ("given", "is_out", "peer", "rests_until", "under_way")

    def __init__(self, peer: ArtifactPeer) -> None:
        self.peer = peer
        self.under_way = 0
        self.given = 0
        self.rests_until = 0.0
        self.is_out = False


class Circle:
    """Peers of one kind, found when they are first needed: each request goes to the one that has
    the least to do for us.

    Args:
        find: who has the artifact now.
        leave_alone: see `Peers.leave_alone`.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[Sequence[ArtifactPeer]]],
        leave_alone: Callable[[str, float], None],
    ) -> None:
        self.faults: dict[str, PeerFault] = {}
        """The last one of each node."""
        self._find = find
        self._leave_alone = leave_alone
        self._known: dict[str, _Known] = {}
        self._looking = asyncio.Lock()
        self._look_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Is there somebody who may give something later?"""
        return any(not known.is_out for known in self._known.values())

    async def fetch(self, get: Callable[[ArtifactPeer], Awaitable[_T]]) -> _T | None:
        """What `get` returns for the first peer for whom it raises no `PeerFault`; None if there
        is none."""
        tried: set[str] = set()
        while (known := await self._next(tried)) is not None:
            tried.add(known.peer.node)
            known.under_way += 1
            try:
                found = await get(known.peer)
            except PeerFault as fault:
                self._note(known, fault)
                continue
            finally:
                known.under_way -= 1
            known.given += 1
            metrics.artifact_peer_reads.labels(known.peer.node, "good").inc()
            return found
        return None

    async def each(self) -> Sequence[ArtifactPeer]:
        """All that have it, as far as is known."""
        await self._look()
        return [known.peer for known in self._known.values() if not known.is_out]

    def note(self, fault: PeerFault) -> None:
        """Somebody of `each` could not give what it was asked for."""
        self._note(self._known[fault.node], fault)

    async def _next(self, tried: set[str]) -> _Known | None:
        await self._look()
        now = asyncio.get_running_loop().time()
        able = (
            known
            for known in self._known.values()
            if not known.is_out and known.rests_until <= now and known.peer.node not in tried
        )
        return min(able, key=lambda known: (known.under_way, known.given), default=None)

    async def _look(self) -> None:
        """Asks who has it: at first, and now and then while nobody can be asked for it."""
        loop = asyncio.get_running_loop()
        async with self._looking:
            if loop.time() < self._look_at or (self._look_at and self.is_busy):
                return
            for peer in await self._find():
                self._known[peer.node] = _Known(peer)
            self._look_at = loop.time() + LOOK_S

    def _note(self, known: _Known, fault: PeerFault) -> None:
        node, trouble = known.peer.node, fault.trouble
        metrics.artifact_peer_reads.labels(node, trouble.value).inc()
        if trouble is Trouble.BUSY:
            pause_s = min(fault.retry_after_s or BUSY_S, MAX_BUSY_S)
            known.rests_until = asyncio.get_running_loop().time() + pause_s
        elif not known.is_out:  # else its other blocks have failed the same way
            known.is_out = True
            self._leave_alone(node, trouble.rest_s)
            heard.warning(
                "a peer is passed over", node, peer=node, trouble=trouble.value, why=fault.message
            )
        self.faults[node] = fault
