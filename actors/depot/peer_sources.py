"""Other nodes' depots as a source of artifacts (`actors.artifacts.peers.Peers`).

A fetch runs in a thread, on a loop of its own, and has an endpoint of its own there: so neither the
bytes nor their decryption ever hold up the loop of the actor that wants the model. What is learnt
of other nodes outlives it: where their depots are, and who is left alone for a while.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from actors.artifacts.peers import ArtifactPeer, PeerFault, Trouble
from actors.contracts import (
    ArtifactsHeld,
    HaveArtifacts,
    Piece,
    ReadBlock,
    ReadManifest,
    ReadSignatures,
)
from actors.errors import ArtifactLost, ArtifactRefused
from supervision.contracts import Contract
from supervision.errors import Draining, Overloaded, PeerLost, TetherError
from supervision.nodes import of_node, tree_of_node
from supervision.runtime import Address, Endpoint
from supervision.runtime.options import NodeOptions
from supervision.runtime.streams import Stream
from supervision.telemetry import logs
from supervision.telemetry.bounded_log import BoundedLog

log = logs.get(__name__)
heard = BoundedLog(__name__)

DEPOT: Final = "depot"  # its path in the tree of a node
PIECE: Final = 512 << 10
CREDIT: Final = 8  # pieces of a block that may be under way
FIND_S: Final = 5.0  # for a node to say what it has
ASKED_AT_ONCE: Final = 16
ENOUGH: Final = 8  # nodes that have an artifact; no more are looked for
PIECE_S: Final = 20.0  # for the next piece of a block
_FRAME: Final = 1024  # bytes of a frame that are no content, at most


class PeerNode(msgspec.Struct, frozen=True, kw_only=True):
    """Another node of the cluster, which may have a depot."""

    id: str
    region: str
    admin_port: int


class PeerNodes(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as its configuration has it: `region` is this node's, `nodes` are those that may
    have a depot, this one or not."""

    region: str = "local"
    nodes: tuple[PeerNode, ...] = ()


class PeerSources:
    """What a process knows of other nodes' depots; may be used by several threads::

        peers = PeerSources.of(actor.node_options, around)
        card = localized(card, cache_dir, artifacts, peers=peers.asking if peers else None)

    Args:
        options: of this node, which must have an identity to reach any other.
        around: the nodes that may have a depot; this one is passed over.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        options: NodeOptions,
        around: PeerNodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.region = around.region
        self.depots: dict[str, Address] = {}
        self._nodes = [node for node in around.nodes if node.id != options.node]
        self._clock = clock
        self._left_alone: dict[str, float] = {}

    @classmethod
    def of(cls, options: NodeOptions, around: PeerNodes) -> PeerSources | None:
        """None if there is nobody to ask, or no identity to show."""
        made = cls(options, around)
        return made if options.identity_dir and made._nodes else None

    def asking(self) -> Asking:
        """For one fetch; to be called on its loop."""
        return Asking(self)

    def among(self, *, near: bool) -> list[PeerNode]:
        """Those of the own region, or of others, that may be asked now."""
        now = self._clock()
        return [
            node
            for node in self._nodes
            if (node.region == self.region) == near and self._left_alone.get(node.id, 0.0) <= now
        ]

    def leave_alone(self, node: str, seconds: float) -> None:
        """Don't ask it again for so long."""
        self._left_alone[node] = max(self._left_alone.get(node, 0.0), self._clock() + seconds)


class Asking:
    """The depots of other nodes during one fetch."""

    def __init__(self, sources: PeerSources) -> None:
        self._sources = sources
        self._endpoint: Endpoint | None = None
        self._opening = asyncio.Lock()

    async def near(self, artifact: str) -> Sequence[ArtifactPeer]:
        """Those of the own region that have it whole."""
        return await self._having(artifact, self._sources.among(near=True))

    async def far(self, artifact: str) -> Sequence[ArtifactPeer]:
        """Those of other regions that have it whole."""
        return await self._having(artifact, self._sources.among(near=False))

    def leave_alone(self, node: str, seconds: float) -> None:
        """See `PeerSources.leave_alone`."""
        self._sources.leave_alone(node, seconds)

    async def aclose(self) -> None:
        """Let go of all connections. Safe twice."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.aclose()

    async def _having(self, artifact: str, nodes: list[PeerNode]) -> Sequence[ArtifactPeer]:
        if not nodes:
            return ()
        try:
            endpoint = await self._opened()
        except (OSError, ValueError, TetherError) as error:
            log.warning("can't ask other nodes for artifacts", error=str(error))
            return ()
        random.shuffle(nodes)  # the first ones aren't asked by all
        pending = iter(nodes)
        found: list[ArtifactPeer] = []

        async def ask() -> None:
            for node in pending:
                if len(found) >= ENOUGH:
                    return
                depot = await self._depot_with(artifact, node, endpoint)
                if depot is not None:
                    found.append(_Depot(endpoint, node.id, depot, artifact, self._piece_bytes))

        await asyncio.gather(*(ask() for _ in range(min(ASKED_AT_ONCE, len(nodes)))))
        return found

    async def _depot_with(
        self, artifact: str, node: PeerNode, endpoint: Endpoint
    ) -> Address | None:
        """The depot of this node, if it has the artifact."""
        known = self._sources.depots
        try:
            async with asyncio.timeout(FIND_S):
                for is_again in (False, True):
                    depot = known.get(node.id) or await self._found(node, endpoint)
                    if depot is None:
                        return None
                    known[node.id] = depot
                    try:
                        held = await endpoint.ask(
                            depot, HaveArtifacts(artifacts=(artifact,)), timeout=FIND_S
                        )
                    except PeerLost:
                        known.pop(node.id, None)  # it was started again since, elsewhere
                        if is_again:
                            raise
                        continue
                    has = isinstance(held, ArtifactsHeld) and artifact in held.artifacts
                    return depot if has else None
        except (TetherError, TimeoutError) as error:
            heard.info(
                "a node can't be asked for artifacts", node.id, peer=node.id, error=str(error)
            )
            if not isinstance(error, Overloaded):
                self.leave_alone(node.id, Trouble.UNREACHABLE.rest_s)
        return None

    async def _found(self, node: PeerNode, endpoint: Endpoint) -> Address | None:
        """Where its depot is; None if it has none, or not now."""
        tree = await tree_of_node(endpoint, node.id, node.admin_port, timeout=FIND_S)
        found = tree.address(DEPOT)
        return of_node(node.id, found) if found else None

    async def _opened(self) -> Endpoint:
        async with self._opening:
            if self._endpoint is None:
                options = self._sources.options
                endpoint = Endpoint.connect(
                    run_dir=options.run_dir,
                    node=options.node,
                    port=options.port,
                    max_frame=options.max_frame,
                    identity_dir=options.identity_dir,
                    revoked_dir=options.revoked_dir,
                    routes=dict(options.routes),
                    alone=True,
                )
                self._endpoint = await endpoint.__aenter__()
            return self._endpoint

    @property
    def _piece_bytes(self) -> int:
        return min(PIECE, self._sources.options.max_frame - _FRAME)


class _Depot:
    """An artifact at another node."""

    def __init__(
        self, endpoint: Endpoint, node: str, depot: Address, artifact: str, piece_bytes: int
    ) -> None:
        self.node = node
        self._endpoint = endpoint
        self._depot = depot
        self._artifact = artifact
        self._piece_bytes = piece_bytes

    async def manifest(self, most: int) -> bytearray:
        """See `actors.artifacts.peers.ArtifactPeer`."""
        ask = ReadManifest(artifact=self._artifact, piece_bytes=self._piece_bytes)
        content = bytearray()
        async with aclosing(self._pieces(ask)) as pieces:
            async for piece in pieces:
                content += piece.content
                self._bound(len(content), most, "its manifest")
        return content

    async def signatures(self, most: int) -> list[bytes]:
        """See `actors.artifacts.peers.ArtifactPeer`."""
        ask = ReadSignatures(artifact=self._artifact, piece_bytes=self._piece_bytes)
        found: list[bytes] = []
        content = bytearray()
        size = 0
        async with aclosing(self._pieces(ask)) as pieces:
            async for piece in pieces:
                content += piece.content
                size += len(piece.content)
                self._bound(size, most, "its signatures")
                if piece.last:
                    found.append(bytes(content))
                    content.clear()
        return found

    async def block(self, file: str, index: int, size: int) -> bytearray:
        """See `actors.artifacts.peers.ArtifactPeer`."""
        ask = ReadBlock(
            artifact=self._artifact, file=file, index=index, piece_bytes=self._piece_bytes
        )
        content = bytearray(size)
        filled = 0
        async with aclosing(self._pieces(ask)) as pieces:
            async for piece in pieces:
                end = filled + len(piece.content)
                self._bound(end, size, f"block {index} of {file}")
                content[filled:end] = piece.content
                filled = end
        if filled != size:
            raise self._fault(
                Trouble.CORRUPT, f"cut off block {index} of {file} after {filled} bytes of {size}"
            )
        return content

    async def _pieces(self, ask: Contract) -> AsyncGenerator[Piece, None]:
        stream: Stream | None = None
        try:
            stream = self._endpoint.stream(self._depot, ask, CREDIT)
            while True:
                async with asyncio.timeout(PIECE_S):
                    piece = await anext(stream)
                if not isinstance(piece, Piece) or not piece.content:
                    raise self._fault(Trouble.CORRUPT, "sent something else than was asked for")
                yield piece
        except StopAsyncIteration:
            return
        except PeerFault:
            raise
        except TimeoutError:
            raise self._fault(Trouble.UNREACHABLE, f"sent nothing for {PIECE_S:g} s") from None
        except (Overloaded, Draining) as error:
            raise self._fault(Trouble.BUSY, error.message, error.retry_after_s) from None
        except (ArtifactLost, ArtifactRefused) as error:
            raise self._fault(Trouble.MISSING, error.message) from None
        except TetherError as error:
            raise self._fault(Trouble.UNREACHABLE, error.message) from None
        finally:
            if stream is not None:
                stream.close()

    def _bound(self, size: int, most: int, what: str) -> None:
        if size > most:
            raise self._fault(Trouble.CORRUPT, f"sent more than the {most} bytes of {what}")

    def _fault(
        self, trouble: Trouble, sentence: str, retry_after_s: float | None = None
    ) -> PeerFault:
        return PeerFault(
            self.node, trouble, f"node {self.node}: {sentence}", retry_after_s=retry_after_s
        )
