"""Specifications of a child and of a supervisor: frozen, and validated when made. Pure."""

from __future__ import annotations

import math
import re
from enum import StrEnum

import msgspec

from supervision.backoff import Backoff
from supervision.capability import Capability
from supervision.contracts import ChildKind
from supervision.strategy import AutoShutdown, Strategy

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_START = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MARGIN_S = 30.0
_MIN_MEMORY = 32 << 20


class Restart(StrEnum):
    """When a child that has ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # unless it ended as NORMAL or SHUTDOWN
    TEMPORARY = "temporary"  # never; it is forgotten


class Shutdown(StrEnum):
    """How long a child may take to stop, where it isn't a number of seconds."""

    BRUTAL_KILL = "brutal_kill"  # no time at all: it isn't asked
    INFINITY = "infinity"  # as long as it takes: a supervisor has children to stop first


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One child of a supervisor. Pure data; made by `spec()` of the child's own class.

    `id` is unique among siblings. `start` is `module:Class`; `args` is that class's Options as
    MessagePack. `needs` are ids of earlier siblings whose addresses are handed over at start
    (rest_for_one and one_for_all only, for they would go stale otherwise). `shutdown` is
    seconds until it is killed. `start_timeout_s` is how long it may take to become ready.
    `probe_s` is how long a running child may leave a ping unanswered, and `max_memory_bytes` how
    much memory it and the processes that it has started may hold for themselves, until it is
    killed and restarted (0: no limit). One that must be `alone` holds what there is one of: it
    isn't started while a process that ran in its place lives, as one whose supervisor was killed
    does for moments. A `significant` child may end its supervisor, see `AutoShutdown`. A child that
    `requires` something runs at whichever node of the convention has it, this one first
    (`supervision.capability.meets`), and is placed anew at every start; it ends when it loses its
    supervisor.

    Raises:
        ValueError: a field is out of its range; the sentence names id and field.
    """

    id: str
    start: str
    args: bytes = b""
    needs: tuple[str, ...] = ()
    restart: Restart = Restart.PERMANENT
    shutdown: float | Shutdown = 5.0
    start_timeout_s: float = 30.0
    probe_s: float = 0.0
    max_memory_bytes: int = 0
    significant: bool = False
    alone: bool = False
    kind: ChildKind = ChildKind.WORKER
    backoff: Backoff = Backoff()
    requires: dict[str, Capability] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.requires and self.kind is ChildKind.SUPERVISOR:
            raise ValueError(f"child {self.id}: a supervisor runs at its own node; move requires")
        if not _ID.fullmatch(self.id):
            raise ValueError(
                f"child {self.id!r}: an id is 1 to 64 letters, digits, '_', '.' or '-'"
            )
        if not _START.fullmatch(self.start):
            raise ValueError(f"child {self.id}: start is {self.start!r}, must be 'module:Class'")
        if self.id in self.needs or len(set(self.needs)) != len(self.needs):
            raise ValueError(f"child {self.id}: needs must name other children, each once")
        if not isinstance(self.shutdown, Shutdown) and not 0 <= self.shutdown < math.inf:
            raise ValueError(f"child {self.id}: shutdown must be seconds from 0, or a Shutdown")
        if self.kind is ChildKind.SUPERVISOR and self.shutdown is not Shutdown.INFINITY:
            raise ValueError(
                f"child {self.id}: a supervisor's shutdown is infinity, it must stop its children"
            )
        if not 0 < self.start_timeout_s < math.inf:
            raise ValueError(f"child {self.id}: start_timeout_s must be above 0")
        if not 0 <= self.probe_s < math.inf:
            raise ValueError(f"child {self.id}: probe_s must be seconds, or 0 for no probe")
        if self.max_memory_bytes and self.max_memory_bytes < _MIN_MEMORY:
            raise ValueError(
                f"child {self.id}: max_memory_bytes is {self.max_memory_bytes}, less than an "
                f"interpreter holds; give at least {_MIN_MEMORY}, or 0 for no limit"
            )
        if self.significant and self.restart is Restart.PERMANENT:
            raise ValueError(
                f"child {self.id}: a significant child is transient or temporary, "
                "for a permanent one never ends by itself"
            )

    @property
    def stop_s(self) -> float:
        """Seconds from being told to stop until it is killed."""
        match self.shutdown:
            case Shutdown.BRUTAL_KILL:
                return 0.0
            case Shutdown.INFINITY:
                return math.inf
            case seconds:
                return seconds

    @property
    def start_module(self) -> str:
        """The module of `start`."""
        return self.start.partition(":")[0]


class SupervisorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A supervisor and its children, in start order. More than `intensity` restarts within
    `period_s` seconds and it gives up.

    Raises:
        ValueError: two children share an id, a need is no earlier sibling, or a number is out
            of its range.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = 3
    period_s: float = 5.0
    children: tuple[ChildSpec, ...] = ()
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER

    def __post_init__(self) -> None:
        _check_intensity(self.intensity, self.period_s)
        seen: set[str] = set()
        for child in self.children:
            if child.id in seen:
                raise ValueError(f"two children are called {child.id}; rename one")
            if child.needs and self.strategy is Strategy.ONE_FOR_ONE:
                raise ValueError(
                    f"child {child.id}: needs go stale under one_for_one; use rest_for_one"
                )
            for need in child.needs:
                if need not in seen:
                    raise ValueError(f"child {child.id} needs {need}, which isn't before it")
            if child.significant and self.auto_shutdown is AutoShutdown.NEVER:
                raise ValueError(f"child {child.id} is significant, but auto_shutdown is never")
            seen.add(child.id)

    @property
    def start_timeout_s(self) -> float:
        """How long all children may take to start one after the other, in seconds."""
        return sum(c.start_timeout_s for c in self.children) + _MARGIN_S


class DynamicOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A supervisor whose children come and go; `children` are there from the start. They start
    and stop together, and the supervisor is ready before they are.

    Raises:
        ValueError: two children share an id, there are more than `max_children`, one has needs
            or is significant, or a number is out of its range.
    """

    max_children: int = 64
    intensity: int = 3
    period_s: float = 5.0
    children: tuple[ChildSpec, ...] = ()

    def __post_init__(self) -> None:
        _check_intensity(self.intensity, self.period_s)
        if self.max_children < 1:
            raise ValueError("max_children must be at least 1")
        if len(self.children) > self.max_children:
            raise ValueError(
                f"{len(self.children)} children, but max_children is {self.max_children}"
            )
        if len({c.id for c in self.children}) != len(self.children):
            raise ValueError("two children of a dynamic supervisor share an id; rename one")
        for child in self.children:
            if child.needs or child.significant:
                raise ValueError(
                    f"child {child.id}: children of a dynamic supervisor have no order, so none "
                    "needs another or is significant"
                )


class PartitionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`partitions` equal children made from one spec; their ids are "0", "1", ….

    Raises:
        ValueError: the child has needs or is significant, or a number is out of its range.
    """

    child: ChildSpec
    partitions: int = 1
    intensity: int = 3
    period_s: float = 5.0

    def __post_init__(self) -> None:
        _check_intensity(self.intensity, self.period_s)
        if not 1 <= self.partitions <= 1024:
            raise ValueError(f"partitions is {self.partitions}, must be 1 to 1024")
        if self.child.needs or self.child.significant:
            raise ValueError(
                "the child of a partition supervisor has neither needs nor significance"
            )

    @property
    def children(self) -> tuple[ChildSpec, ...]:
        """The specs of all partitions."""
        return tuple(
            msgspec.structs.replace(self.child, id=str(index)) for index in range(self.partitions)
        )

    @property
    def start_timeout_s(self) -> float:
        """How long the partitions may take to start together, in seconds."""
        return self.child.start_timeout_s + _MARGIN_S


def _check_intensity(intensity: int, period_s: float) -> None:
    if intensity < 0:
        raise ValueError(f"intensity is {intensity}, must not be negative")
    if not 0 < period_s < math.inf:
        raise ValueError(f"period_s is {period_s}, must be above 0")
