"""Options of a depot."""

from __future__ import annotations

import msgspec

from actors.artifacts.options import ArtifactOptions


class DepotOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`cache_dir` is the node's; `artifacts.trust_dir` must be absolute.

    At most `streams` blocks are on their way to others at once, `per_node` of them to one node,
    read from disk by `readers` threads; each stream has at most a piece in memory besides what its
    connection holds. While what is admitted takes longer than `behind_s` at
    `artifacts.peer_bandwidth`, no more is. A stream whose reader takes nothing for `stall_s` is
    ended. At most `held` artifacts are open, each for `idle_s` after its last reader; every
    `judge_s` it is seen whether they still may be lent.

    Raises:
        ValueError: a value is out of its range.
    """

    cache_dir: str
    artifacts: ArtifactOptions = ArtifactOptions()
    streams: int = 32
    per_node: int = 16
    readers: int = 4
    behind_s: float = 5.0
    stall_s: float = 30.0
    held: int = 16
    idle_s: float = 30.0
    judge_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("streams", "per_node", "readers", "held"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the depot must be at least 1")
        for name in ("behind_s", "stall_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of the depot must be above 0")
        for name in ("idle_s", "judge_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of the depot must not be negative")
