"""Whose name of a worker it is, when several nodes call theirs so.

A worker that belongs to a node has that node's id at the end of its name (`echo.n1`), and nobody
else is called so here, whether or not that node is there. The others' names, of workers that run
anywhere in a region (`chat.eu`), are with whoever had them first, as long as he says so. Whoever is
late is called `node/worker`, and a name of another node never has a `/` itself.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable


class WorkerNames:
    """Names by the nodes that hold them, of one fleet after the other.

    Args:
        node: this one, whose own workers are called as it says.
        others: the ids of the other nodes of the configuration.
    """

    def __init__(self, node: str, others: Iterable[str]) -> None:
        self._nodes = frozenset((node, *others))
        self._node = node
        self._holders: dict[str, str] = {}

    def owner(self, name: str) -> str:
        """The node whose name it is by how it ends; empty for a name that any may have."""
        at = name.find(".")
        while at >= 0:
            if name[at + 1 :] in self._nodes:
                return name[at + 1 :]
            at = name.find(".", at + 1)
        return ""

    def settle(self, own: Iterable[str], claims: Iterable[tuple[str, str]]) -> None:
        """These are the names of the own workers, and of those of others, each with its node, in
        the order of who comes first where nobody had it before."""
        asked = tuple(claims)
        holders = dict.fromkeys(own, self._node)
        standing = frozenset(asked)
        for name, node in self._holders.items():
            if (node, name) in standing:
                holders.setdefault(name, node)
        for node, name in asked:
            if self.owner(name) in ("", node):
                holders.setdefault(name, node)
        self._holders = holders

    def holds(self, node: str, name: str) -> bool:
        """May its worker be called so?"""
        return self._holders.get(name) == node
