"""The state of one model in a worker's pool: what is wanted of it, and where it stands. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, IntEnum, auto


class Rank(IntEnum):
    """What fills free room first."""

    CURRENT = 0  # what its name stands for
    CANARY = 1
    OTHER = 2  # an older stable version


class ModelPhase(Enum):
    """Where a model stands."""

    OUT = auto()  # not here
    LOADING = auto()  # on its way
    WARM = auto()  # it answers
    CLOSING = auto()  # on its way out; its bytes are still taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A model that may run here. `size` are the bytes that it is expected to take, and what it does
    take if `certain`. Two wishes of another `identity` are not the same model."""

    ref: str
    identity: Hashable = None
    size: int = 0
    certain: bool = False
    rank: Rank = Rank.CURRENT
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Begin to load it; say `loaded` or `failed`."""

    ref: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close its engine; say `closed`. `why` is room, retired or changed."""

    ref: str
    why: str


Step = Load | Close


class ModelState:
    """`identity`, `size` and failures are those of what is here, or else of what is wanted."""

    __slots__ = (
        "asked_at", "claims", "failures", "fault", "holds", "identity", "loaded_at", "phase",
        "pinned", "ref", "retry_at", "size", "used_at", "waits", "wish",
    )  # fmt: skip

    def __init__(self, wish: Wish) -> None:
        self.ref = wish.ref
        self.wish: Wish | None = wish
        self.phase = ModelPhase.OUT
        self.pinned = False
        self.holds = 0
        self.waits = 0
        self.asked_at = self.used_at = self.loaded_at = 0.0
        self.renew()

    def renew(self) -> None:
        """Nothing is known of it but what is wanted of it."""
        assert self.wish is not None
        self.identity = self.wish.identity
        self.size = self.wish.size
        self.claims = False  # has anything been closed for it?
        self.failures = 0
        self.retry_at = 0.0
        self.fault = ""

    @property
    def stale(self) -> bool:
        return self.wish is None or self.identity != self.wish.identity

    @property
    def canary(self) -> bool:
        return self.wish is not None and self.wish.rank is Rank.CANARY
