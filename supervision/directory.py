"""The table of all children of a node, which the root supervisor keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from supervision.contracts import ChildStatus, Tree, TreeNode


@dataclass(slots=True)
class _Row:
    node: TreeNode
    since: float  # on our clock, so that ages go on growing


class Directory:
    """Rows by path. `version` grows with every change.

    A supervisor that was replaced counts the restarts of its children from 0 again, for it knows
    no better; here they go on from where they were. How often it may restart them does begin
    anew, as in OTP.
    """

    def __init__(self, max_past: int = 16_384) -> None:
        self.version = 0
        self._rows: dict[str, _Row] = {}
        self._past: dict[str, int] = {}  # restarts under supervisors that are gone, by path
        self._max_past = max_past

    def __len__(self) -> int:
        return len(self._rows)

    def apply(self, node: TreeNode, now: float) -> list[TreeNode]:
        """`node` is how it is now. A supervisor without a process has no children either: those
        that it had are dropped and returned."""
        self.version += 1
        dropped = self._drop_below(node.path) if node.pid == 0 else []
        if node.state is ChildStatus.DELETED:
            self._rows.pop(node.path, None)
            for path in [p for p in self._past if f"{p}/".startswith(f"{node.path}/")]:
                del self._past[path]
            return dropped
        if past := self._past.get(node.path):
            node = msgspec.structs.replace(node, restarts=node.restarts + past)
        row = self._rows.get(node.path)
        if row is None:
            self._rows[node.path] = _Row(node, now - node.since_s)
        else:
            row.node, row.since = node, now - node.since_s
        return dropped

    def get(self, path: str) -> TreeNode | None:
        """The row of `path`."""
        row = self._rows.get(path)
        return row.node if row else None

    def tree(self, now: float) -> Tree:
        """All of it, parents before children, siblings in the order in which they appeared."""
        below: dict[str, list[str]] = {}
        for path in self._rows:
            if path:
                below.setdefault(path.rpartition("/")[0], []).append(path)
        nodes: list[TreeNode] = []
        pending = [""]
        while pending:
            path = pending.pop()
            row = self._rows.get(path)
            if row is not None:
                since_s = max(0.0, now - row.since)
                nodes.append(msgspec.structs.replace(row.node, since_s=since_s))
            pending.extend(reversed(below.pop(path, [])))
        # a supervisor's children may be heard of before itself, on another connection
        for orphans in below.values():
            nodes.extend(self._rows[path].node for path in orphans)
        return Tree(nodes=tuple(nodes))

    def _drop_below(self, path: str) -> list[TreeNode]:
        prefix = f"{path}/" if path else ""
        below = [p for p in self._rows if p.startswith(prefix) and p != path]
        dropped = [self._rows.pop(p).node for p in below]
        for node in dropped:
            if len(self._past) < self._max_past or node.path in self._past:
                # whoever comes there now is one more, unless nobody had been there yet
                self._past[node.path] = node.restarts + (node.state is not ChildStatus.STARTING)
        return dropped
