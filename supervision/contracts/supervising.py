"""The messages between a supervisor, its children, and whoever looks at the tree. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from supervision.contracts.contract import ControlMessage, Value


class ExitReason(StrEnum):
    """Why a child is gone."""

    NORMAL = "normal"  # it had nothing more to do
    SHUTDOWN = "shutdown"  # its supervisor told it to stop
    FAILED = "failed"  # it said that it cannot go on, and why
    KILLED = "killed"  # its supervisor killed it: past a deadline, hung, or too large
    VANISHED = "vanished"  # the process ended without a word
    START_FAILED = "start_failed"  # it never became ready


class ChildKind(StrEnum):
    """What a child is."""

    WORKER = "worker"  # does work
    SUPERVISOR = "supervisor"  # has children


class ChildStatus(StrEnum):
    """What the tree shows of a child."""

    STARTING = "starting"  # it has never been ready
    RUNNING = "running"  # it serves
    RESTARTING = "restarting"  # it was started before, and is again
    STOPPING = "stopping"  # it was told to end, or is about to
    STOPPED = "stopped"  # it has no process, and gets none by itself
    DELETED = "deleted"  # its supervisor has forgotten it; in a `ChildChanged` alone


class StartChild(ControlMessage, frozen=True):
    """Supervisor → new child, asked: become ready. `args` is the child's own options Struct
    as MessagePack; `needs` maps a sibling's id to its address; `root` is the address of the
    node's root supervisor (empty when the child is the root); `place` is where the child stands in
    the start order, the numbers of its ancestors among their siblings and its own (empty for the
    root, None for a child at another node than its supervisor)."""

    path: str
    generation: int
    parent: str
    root: str
    args: bytes = b""
    needs: dict[str, str] = msgspec.field(default_factory=dict)
    place: tuple[int, ...] | None = None


class ChildReady(ControlMessage, frozen=True):
    """The child serves now. `pid` is its process; `strategy` is a supervisor's. Its supervisor
    knows both `pid` and `address`, and believes itself."""

    pid: int
    address: str
    strategy: str = ""


class StopChild(ControlMessage, frozen=True):
    """Supervisor → child, asked: finish within `deadline_s`, then end."""

    deadline_s: float
    reason: ExitReason = ExitReason.SHUTDOWN


class ChildStopped(ControlMessage, frozen=True):
    """The child has let go of everything and ends now."""


class ExitNotice(ControlMessage, frozen=True):
    """Child → supervisor, told before it ends by itself. `code` is that of the error, if it was one
    of `supervision.errors`. Safe to see twice."""

    path: str
    generation: int
    reason: ExitReason
    error: str = ""
    code: str = ""


class Ping(ControlMessage, frozen=True):
    """Supervisor → child, asked now and then: does your loop turn?"""


class Pong(ControlMessage, frozen=True):
    """It does."""


class AddChild(ControlMessage, frozen=True):
    """→ supervisor, asked: start one more child, the last in order, and answer `ChildReady` when
    it serves. `spec` is a `supervision.ChildSpec` as MessagePack."""

    spec: bytes


class TerminateChild(ControlMessage, frozen=True):
    """→ supervisor, asked: stop the child called `id` and answer `ChildStopped` when its process
    is gone. A dynamic supervisor forgets it then, others keep it, down."""

    id: str


class RestartChild(ControlMessage, frozen=True):
    """→ supervisor, asked: start the child called `id` again, which is down, and answer
    `ChildReady` when it serves."""

    id: str


class DeleteChild(ControlMessage, frozen=True):
    """→ supervisor, asked: forget the child called `id`, which is down."""

    id: str


class ChildDeleted(ControlMessage, frozen=True):
    """The supervisor knows nothing of it any more."""


class ShowChildren(ControlMessage, frozen=True):
    """→ supervisor, asked: its own `ChildrenShown` (OTP's which_children)."""


class ChildrenShown(ControlMessage, frozen=True):
    """The children of one supervisor, in start order."""

    nodes: tuple[TreeNode, ...]


class CountChildren(ControlMessage, frozen=True):
    """→ supervisor, asked: its `ChildCounts` (OTP's count_children)."""


class ChildCounts(ControlMessage, frozen=True):
    """`specs` children, of which `active` have a process; `workers` and `supervisors` by kind."""

    specs: int
    active: int
    workers: int
    supervisors: int


class ChildChanged(ControlMessage, frozen=True):
    """Supervisor → root, told: this child is now as described."""

    node: TreeNode


class AwaitPredecessors(ControlMessage, frozen=True):
    """Supervisor → root, asked: has all ended that ran at `path` before process `pid`? Answered
    when it has."""

    path: str
    pid: int


class PredecessorsGone(ControlMessage, frozen=True):
    """It has."""


class TreeNode(Value, frozen=True):
    """One line of the tree. `since_s` is how long it has been in `state`."""

    path: str
    kind: ChildKind
    state: ChildStatus
    address: str = ""
    pid: int = 0
    generation: int = 0
    restarts: int = 0
    since_s: float = 0.0
    strategy: str = ""
    last_exit: str = ""


class FindActor(ControlMessage, frozen=True):
    """→ Admin of any node: where the actor with this global name is. A node's root supervisor is
    called `root`."""

    name: str


class ActorFound(ControlMessage, frozen=True):
    """`address` is empty when the node has nobody of that name (yet)."""

    address: str = ""


class KillPlaced(ControlMessage, frozen=True):
    """→ Admin of another node, asked: kill the actor with the process `pid`, which it started for
    a supervisor of the asking node. Answered with nothing."""

    pid: int


class WatchTree(ControlMessage, frozen=True):
    """→ root, opens a stream of `Tree`: one at once, then one per change, newest only."""


class ShowTree(ControlMessage, frozen=True):
    """→ root: the `Tree` as it is."""


class Tree(ControlMessage, frozen=True):
    """All children of a node by path (`control/scheduler`), parents before children."""

    nodes: tuple[TreeNode, ...]

    def address(self, path: str) -> str | None:
        """The address of the running child at `path`, if there is one."""
        return next(
            (n.address for n in self.nodes if n.path == path and n.state is ChildStatus.RUNNING),
            None,
        )

    def under(self, prefix: str) -> tuple[TreeNode, ...]:
        """The running workers (not supervisors) below `prefix`, in the order of the tree."""
        return tuple(
            n
            for n in self.nodes
            if n.state is ChildStatus.RUNNING
            and n.kind is ChildKind.WORKER
            and n.path.startswith(prefix + "/")
        )
