"""The sources of an artifact: peers of the own region, replicas, peers of other regions.

Peers of the own region go first: a model that one of them has needs no second trip to a bucket far
away, and costs no egress. A peer of another region goes last: it is as far away as a bucket, which
is made for many readers, and its line is what answers of models travel on. For the same reason
`artifacts.bandwidth` holds for replicas and other regions, and not among peers of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from actors.artifacts import digest as digests
from actors.artifacts import layout
from actors.artifacts.crew import in_thread
from actors.artifacts.manifest import MAX_MANIFEST, File, Manifest, decode
from actors.artifacts.peers import ArtifactPeer, Circle, PeerFault, Peers, Trouble
from actors.artifacts.replicas import MAX_SIGNATURE, Replicas
from actors.errors import ArtifactLost

PATIENCE_S: Final = 600.0  # with peers that are busy, where nobody else has it
PAUSE_S: Final = 0.2  # between two rounds over all of them
REST_S: Final = 30.0  # in which replicas that had nothing are asked after all peers

_Bytes = bytes | bytearray | memoryview


class Sources:
    """Where one artifact comes from, while it is fetched.

    Args:
        digest: of its manifest.
        replicas: asked in their order.
        peers: the other nodes; None: there are none.
    """

    def __init__(self, digest: str, replicas: Replicas, peers: Peers | None) -> None:
        self.parallel = replicas.parallel
        self._digest = digest
        self._replicas = replicas
        self._replicas_rest_until = 0.0
        self._turned_away = False
        self._near = self._far = Circle(_nobody, lambda node, seconds: None)
        if peers is not None:
            self._near = Circle(lambda: peers.near(digest), peers.leave_alone)
            self._far = Circle(lambda: peers.far(digest), peers.leave_alone)

    async def manifest(self) -> Manifest:
        """
        Raises:
            ArtifactLost: nobody has it.
            ArtifactRefused: it is none that is safe.
        """

        async def ask(peer: ArtifactPeer) -> _Bytes:
            content = await peer.manifest(MAX_MANIFEST)
            await _check(peer, content, self._digest, "the manifest")
            return content

        content = await self._fetch(ask, layout.manifest(self._digest), self._digest, MAX_MANIFEST)
        return await in_thread(decode, content, self._digest)

    async def block(self, file: File, index: int) -> _Bytes:
        """
        Raises:
            ArtifactLost: nobody has it whole.
        """
        size, digest = file.block_size(index), file.blocks[index]

        async def ask(peer: ArtifactPeer) -> _Bytes:
            content = await peer.block(file.name, index, size)
            await _check(peer, content, digest, f"block {index} of {file.name}")
            return content

        return await self._fetch(ask, layout.block(digest), digest, size, size)

    async def signatures(self) -> AsyncGenerator[bytes, None]:
        """Each that anybody has, in the order of the sources.

        Raises:
            ArtifactLost: after all that could be had: no replica says what it has, or has one
                whole that it lists.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + PATIENCE_S
        seen: set[bytes] = set()
        while True:
            lost: ArtifactLost | None = None
            self._turned_away = False
            for source in self._in_order(clock()):
                found = self._lent(source) if source is not None else self._kept()
                try:
                    async with aclosing(found):
                        async for content in found:
                            if content not in seen:
                                seen.add(content)
                                yield content
                except ArtifactLost as error:
                    lost = error
                    self._replicas_rest_until = clock() + REST_S
            if lost is None:
                return
            if not self._turned_away or clock() > until:
                raise lost
            await asyncio.sleep(PAUSE_S)

    async def _kept(self) -> AsyncGenerator[bytes, None]:
        async for content in self._replicas.signatures(self._digest):
            yield content

    async def _lent(self, circle: Circle) -> AsyncGenerator[bytes, None]:
        for peer in await circle.each():
            try:
                found = await peer.signatures(MAX_SIGNATURE)
            except PeerFault as fault:
                circle.note(fault)
                self._turned_away |= fault.trouble is Trouble.BUSY
                continue
            for content in found:
                yield content

    async def _fetch(
        self,
        ask: Callable[[ArtifactPeer], Awaitable[_Bytes]],
        path: str,
        digest: str,
        most: int,
        size: int | None = None,
    ) -> _Bytes:
        clock = asyncio.get_running_loop().time
        until = clock() + PATIENCE_S
        while True:
            lost: ArtifactLost | None = None
            for source in self._in_order(clock()):
                if source is not None:
                    if source is self._far and await source.each():
                        await self._replicas.wait(size or 0)
                    content = await source.fetch(ask)
                    if content is not None:
                        return content
                    continue
                try:
                    return await self._replicas.fetch(path, most=most, digest=digest, size=size)
                except ArtifactLost as error:
                    lost = error
                    self._replicas_rest_until = clock() + REST_S
            assert lost is not None
            if clock() > until or not (self._near.is_busy or self._far.is_busy):
                raise ArtifactLost("; ".join([lost.message, *self._told()])) from None
            await asyncio.sleep(PAUSE_S)

    def _in_order(self, now: float) -> Sequence[Circle | None]:
        """None stands for the replicas."""
        if now < self._replicas_rest_until:
            return self._near, self._far, None
        return self._near, None, self._far

    def _told(self) -> list[str]:
        faults = {**self._near.faults, **self._far.faults}
        return [fault.message for _, fault in sorted(faults.items())]


async def _check(peer: ArtifactPeer, content: bytearray, digest: str, what: str) -> None:
    """
    Raises:
        PeerFault: it is something else.
    """
    found = await in_thread(digests.of, content)
    if found != digest:
        raise PeerFault(
            peer.node,
            Trouble.CORRUPT,
            f"node {peer.node} sent other bytes for {what}: their digest is another",
        )


async def _nobody() -> Sequence[ArtifactPeer]:
    return ()
