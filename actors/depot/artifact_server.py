"""The actor that lends artifacts of this node's cache to other nodes, by digest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from actors.artifacts import source
from actors.artifacts.bandwidth import Bandwidth
from actors.artifacts.crew import in_thread
from actors.artifacts.shared_artifacts import FilePart, Lent, SharedArtifacts
from actors.contracts import (
    ArtifactsHeld,
    HaveArtifacts,
    Piece,
    ReadBlock,
    ReadManifest,
    ReadSignatures,
)
from actors.core.node_roles import Role
from actors.depot import metrics
from actors.depot.options import DepotOptions
from actors.errors import ArtifactLost, ArtifactRefused
from supervision.child import Supervised
from supervision.errors import BadRequest, Overloaded, TetherError
from supervision.runtime import Address, on
from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)

PIECE: Final = 512 << 10  # bytes that are read, and sent, at once
MIN_PIECE: Final = 1024
MAX_ASKED: Final = 64  # digests in one question
TIDY_S: Final = 1.0
RETRY_S: Final = 0.25  # until somebody who was turned away may ask again

Read = ReadManifest | ReadSignatures | ReadBlock

_streams_used = bounds.used.labels("lent_streams")
_streams_refused = bounds.refused.labels("lent_streams")
_node_refused = bounds.refused.labels("lent_streams_of_a_node")
_bytes_used = bounds.used.labels("lent_bytes")
_behind_refused = bounds.refused.labels("lent_bandwidth")
_results = {
    result: metrics.artifact_lent.labels(result)
    for result in ("lent", "absent", "refused", "busy", "stalled", "broken_off")
}


class _Lending:
    """One stream to another node."""

    __slots__ = ("node", "result", "task", "yielded_at")

    def __init__(self, node: str, task: asyncio.Task[Any] | None) -> None:
        self.node = node
        self.task = task
        self.yielded_at = 0.0  # when a piece was handed on, if it hasn't been taken since
        self.result = "broken_off"


class Depot(Supervised):
    """Answers `HaveArtifacts`, and streams what lies whole in the cache. Whoever asks is a process
    of this cluster: connections without a certificate of it don't come this far."""

    Options: ClassVar[type[msgspec.Struct]] = DepotOptions
    max_handlers: ClassVar[int] = 256

    async def start(self, options: DepotOptions) -> None:
        self._options = options
        artifacts = options.artifacts
        self._shelf = SharedArtifacts(
            source.cache_of(Path(options.cache_dir), artifacts),
            lambda: source.trust_of(artifacts),
            source.now,
            most=options.held,
            idle_s=options.idle_s,
            judge_s=options.judge_s,
        )
        self._pace = Bandwidth(artifacts.peer_bandwidth)
        self._readers = ThreadPoolExecutor(options.readers, "depot")
        self._lendings: dict[_Lending, None] = {}
        self._per_node: Counter[str] = Counter()
        self._bytes = 0
        self.background(self._tidy(), name="tidy")

    async def stop(self, deadline_s: float) -> None:
        """Whoever reads goes elsewhere."""
        self._shelf.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def described(self) -> dict[str, object]:
        return {"lending": len(self._lendings), "nodes": len(self._per_node), "bytes": self._bytes}

    @on(HaveArtifacts, of=Role.WORKER)
    async def have(self, msg: HaveArtifacts, sender: Address) -> ArtifactsHeld:
        """
        Raises:
            BadRequest: too many are asked for, or what is asked for is no digest.
            Overloaded: nothing can be lent at the moment.
        """
        if len(msg.artifacts) > MAX_ASKED:
            raise BadRequest(f"ask for {MAX_ASKED} artifacts at most, not {len(msg.artifacts)}")
        held = []
        for artifact in msg.artifacts:
            try:
                self._shelf.give_back(await self._shelf.take(artifact))
            except (ArtifactLost, ArtifactRefused):
                continue
            held.append(artifact)
        return ArtifactsHeld(artifacts=tuple(held))

    @on(ReadManifest, ReadSignatures, ReadBlock, of=Role.WORKER)
    async def read(self, msg: Read, sender: Address) -> AsyncIterator[Piece]:
        """
        Raises:
            BadRequest: there can't be such a thing.
            ArtifactLost: it isn't here.
            ArtifactRefused: it was changed since it was verified, or must not be loaded.
            Overloaded: as much is lent as may be; try again later, or elsewhere.
        """
        with self._admitted(sender.node) as lending:
            lent = await self._shelf.take(msg.artifact)
            try:
                for part in await self._parts(lent, msg):
                    # Closed here: when this one is cancelled, not when somebody collects it.
                    async with aclosing(self._pieces(lending, part, msg.piece_bytes)) as pieces:
                        async for piece in pieces:
                            yield piece
                lending.result = "lent"
            finally:
                self._shelf.give_back(lent)

    async def _parts(self, lent: Lent, msg: Read) -> list[FilePart]:
        if isinstance(msg, ReadBlock):
            return lent.block(msg.file, msg.index)
        if isinstance(msg, ReadManifest):
            return lent.manifest()
        return await in_thread(lent.signatures, executor=self._readers)

    async def _pieces(
        self, lending: _Lending, part: FilePart, piece_bytes: int
    ) -> AsyncGenerator[Piece, None]:
        most = max(MIN_PIECE, min(piece_bytes, PIECE))
        try:
            await in_thread(part.open, executor=self._readers)
            for at in range(0, part.size, most):
                size = min(most, part.size - at)
                await self._turn(size)
                content = await in_thread(part.read, at, size, executor=self._readers)
                self._bytes += size
                _bytes_used.set(self._bytes)
                lending.yielded_at = self.loop.time()
                try:
                    yield Piece(content=content, last=at + size == part.size)
                finally:
                    lending.yielded_at = 0.0
                    self._bytes -= size
                    _bytes_used.set(self._bytes)
                metrics.artifact_lent_bytes.inc(size)
        finally:
            part.close()

    async def _turn(self, size: int) -> None:
        """Until `size` more bytes may go to other nodes."""
        pause_s = self._pace.take(size, self.loop.time())
        if pause_s > 0:
            metrics.artifact_lent_wait.inc(pause_s)
            await asyncio.sleep(pause_s)

    @contextmanager
    def _admitted(self, node: str) -> Iterator[_Lending]:
        lending = _Lending(node, asyncio.current_task())
        try:
            self._admit(node)
            self._lendings[lending] = None
            self._per_node[node] += 1
            _streams_used.set(len(self._lendings))
            try:
                yield lending
            finally:
                del self._lendings[lending]
                self._per_node[node] -= 1
                if not self._per_node[node]:
                    del self._per_node[node]
                _streams_used.set(len(self._lendings))
        except Overloaded:
            lending.result = "busy"
            raise
        except ArtifactLost:
            lending.result = "absent"
            raise
        except TetherError:
            lending.result = "refused"
            raise
        finally:
            _results[lending.result].inc()

    def _admit(self, node: str) -> None:
        options = self._options
        behind_s = self._pace.behind(self.loop.time())
        if len(self._lendings) >= options.streams:
            _streams_refused.inc()
            why = f"{options.streams} blocks are on their way from here already"
        elif self._per_node[node] >= options.per_node:
            _node_refused.inc()
            why = f"{options.per_node} blocks are on their way to {node} already"
        elif behind_s > options.behind_s:
            _behind_refused.inc()
            why = "what is on its way from here takes all of artifacts.peer_bandwidth"
        else:
            return
        raise Overloaded(why, retry_after_s=max(RETRY_S, behind_s - options.behind_s))

    async def _tidy(self) -> None:
        """Ends what nobody takes, and lets go of what nobody reads."""
        while True:
            await asyncio.sleep(TIDY_S)
            self._shelf.tidy()
            late = self.loop.time() - self._options.stall_s
            for lending in list(self._lendings):
                if 0 < lending.yielded_at < late and lending.task is not None:
                    heard.warning(
                        "a node doesn't take what it asked for", lending.node, peer=lending.node
                    )
                    lending.result = "stalled"
                    lending.yielded_at = 0.0
                    lending.task.cancel("stalled")
