"""All replicas of the artifacts, asked in their order: one that fails is passed over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from actors.artifacts import layout
from actors.artifacts.bandwidth import Bandwidth
from actors.artifacts.manifest import MAX_MANIFEST, Manifest, decode
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.replica import FaultKind, Replica, ReplicaFault
from actors.errors import ArtifactLost
from supervision.errors import BadRequest
from supervision.telemetry import logs

log = logs.get(__name__)

ROUNDS: Final = 3  # over all replicas, while one of them may come back
PAUSE_S: Final = 0.2  # after the first round; each further one is twice as long
MAX_SIGNATURE: Final = 16 << 20
_LOGGED: Final = 20  # faults; the rest are counted only


class Replicas:
    """
    Args:
        replicas: in the order in which they are asked.
        parallel: objects under way at once.
        bandwidth: bytes per second over all of them; 0 is no limit.

    Raises:
        BadRequest: two of them are the same store.
    """

    def __init__(
        self, replicas: Sequence[Replica], *, parallel: int = 8, bandwidth: int = 0
    ) -> None:
        self.all = tuple(replicas)
        if len({replica.name for replica in replicas}) != len(self.all):
            raise BadRequest("the same store is listed twice; two copies there are one")
        self.parallel = parallel
        self.faults: Counter[tuple[str, FaultKind]] = Counter()
        """What went wrong so far, by replica."""
        self._bandwidth = Bandwidth(bandwidth)

    @classmethod
    def of(cls, artifacts: ArtifactOptions) -> Replicas:
        """Those of the configuration.

        Raises:
            BadRequest: it lists none.
        """
        if not artifacts.replicas:
            raise BadRequest("no replica is listed; add [artifacts] replicas to the configuration")
        return cls(
            [Replica(url, timeout_s=artifacts.timeout_s) for url in artifacts.replicas],
            parallel=artifacts.parallel,
            bandwidth=artifacts.bandwidth,
        )

    async def fetch(
        self, path: str, *, most: int, digest: str | None = None, size: int | None = None
    ) -> bytes | memoryview:
        """What lies at `path`, from the first replica that has it whole.

        Raises:
            ArtifactLost: none has; the sentence says what is wrong with each.
        """
        found: dict[str, ReplicaFault] = {}
        for round_ in range(ROUNDS):
            for replica in self.all:
                before = found.get(replica.name)
                if before is not None and before.fault is not FaultKind.UNREACHABLE:
                    continue
                await self.wait(size or 0)
                try:
                    return await replica.get(path, most=most, digest=digest, size=size)
                except ReplicaFault as fault:
                    found[replica.name] = fault
                    self.note(fault)
            if all(fault.fault is not FaultKind.UNREACHABLE for fault in found.values()):
                break
            if round_ + 1 < ROUNDS:
                await asyncio.sleep(PAUSE_S * 2.0**round_)
        told = "; ".join(fault.message for fault in found.values())
        raise ArtifactLost(f"no replica has {path} whole: {told}")

    async def manifest(self, digest: str) -> Manifest:
        """The manifest of an artifact.

        Raises:
            ArtifactLost: no replica has it.
            ArtifactRefused: it is none that is safe.
        """
        content = await self.fetch(layout.manifest(digest), most=MAX_MANIFEST, digest=digest)
        return await asyncio.to_thread(decode, content, digest)

    async def wait(self, size: int) -> None:
        """Until `size` more bytes may go."""
        pause_s = self._bandwidth.take(size, asyncio.get_running_loop().time())
        if pause_s > 0:
            await asyncio.sleep(pause_s)

    async def signatures(self, manifest_digest: str) -> AsyncIterator[bytes]:
        """Each signature that any replica has.

        Raises:
            ArtifactLost: no replica says what it has, or none has one whole that is listed.
        """
        reached = 0
        lost: ArtifactLost | None = None
        seen: set[str] = set()
        for replica in self.all:
            try:
                names = [k.path async for k in replica.listed(layout.signatures(manifest_digest))]
            except ReplicaFault as fault:
                self.note(fault)
                continue
            reached += 1
            for path in names:
                digest = layout.digest_in(path)
                if digest is not None and digest not in seen:
                    seen.add(digest)
                    try:
                        content = await self.fetch(path, most=MAX_SIGNATURE, digest=digest)
                    except ArtifactLost as error:
                        lost = error  # another signature may count
                        continue
                    yield bytes(content)
        if lost is not None:
            raise lost
        if not reached:
            raise ArtifactLost("no replica can be reached, so nobody knows who signed it")

    def note(self, fault: ReplicaFault) -> None:
        """Remember that a replica failed, and say so."""
        self.faults[fault.replica, fault.fault] += 1
        if self.faults[fault.replica, fault.fault] <= _LOGGED:
            log.warning("a replica was passed over", fault=fault.fault.value, why=fault.message)
