"""Names of artifacts, `name@version`, as the replicas have them."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts import layout
from actors.artifacts.replica import FaultKind, ReplicaFault
from actors.artifacts.replicas import Replicas
from actors.errors import ArtifactLost, ModelNotFound
from supervision.errors import BadRequest

MOST: Final = 1024  # bytes of an address, with room to spare


class Named(msgspec.Struct, frozen=True):
    """A name, and the address that each replica gives for it."""

    ref: str
    said: dict[str, str]  # by name of replica

    @property
    def addresses(self) -> list[str]:
        """What is said, what most say first."""
        return [address for address, _ in Counter(self.said.values()).most_common()]


async def listed(replicas: Replicas) -> list[Named]:
    """All names, sorted. One that was damaged is noted among the faults of the replicas.

    Raises:
        ArtifactLost: no replica can be reached.
    """
    said: dict[str, dict[str, str]] = defaultdict(dict)  # address by replica by ref
    reached = 0
    why = ""
    for replica in replicas.all:
        try:
            async for kept in replica.listed(layout.REFS):
                content = bytes(await replica.get(kept.path, most=MOST))
                ref = kept.path.removeprefix(layout.REFS)
                if (address := read(content)) is not None:
                    said[ref][replica.name] = address
                else:
                    damage = f"{replica.name}: {kept.path} was damaged: it is no address"
                    replicas.note(ReplicaFault(replica.name, FaultKind.CORRUPT, damage))
            reached += 1
        except ReplicaFault as fault:
            replicas.note(fault)
            why = fault.message
    if not reached:
        raise ArtifactLost(f"no replica can be reached: {why}")
    return [Named(ref, by_replica) for ref, by_replica in sorted(said.items())]


async def forget(replicas: Replicas, ref: str) -> None:
    """Take the name away. What it stood for stays until a collection finds it unused.

    Raises:
        ReplicaFault: a replica can't be reached, and still has it.
    """
    for replica in replicas.all:
        await replica.delete(layout.ref(ref))


async def resolve(replicas: Replicas, text: str) -> str:
    """The digest that `sha256:…` or `name@version` stands for.

    Raises:
        ModelNotFound: no replica knows the name.
        ArtifactLost: none can be asked.
        BadRequest: it is neither.
    """
    if text.startswith((digests.PREFIX, digests.SOURCE)):
        return digests.parse(text)
    path = layout.ref(text)
    said: Counter[str] = Counter()
    missing = 0
    why = ""
    for replica in replicas.all:
        try:
            address = read(bytes(await replica.get(path, most=MOST)))
        except ReplicaFault as fault:
            if fault.fault is FaultKind.MISSING:
                missing += 1
            else:
                replicas.note(fault)
                why = fault.message
        else:
            if address is not None:
                said[address] += 1
    if said:
        return digests.parse(said.most_common(1)[0][0])
    if missing:
        raise ModelNotFound(f"no replica knows {text}; `tether models ls` shows what there is")
    raise ArtifactLost(f"no replica can say what {text} is: {why}")


def read(content: bytes) -> str | None:
    """The address that a name's object holds; None if it was damaged."""
    try:
        return digests.address(digests.parse(content.decode()))
    except (UnicodeDecodeError, BadRequest):
        return None
