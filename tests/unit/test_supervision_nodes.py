"""What a node says of where its processes are."""

from __future__ import annotations

from typing import Any

import pytest

from supervision.contracts import (
    ActorFound,
    ChildKind,
    ChildStatus,
    Contract,
    FindActor,
    Tree,
    TreeNode,
)
from supervision.errors import Unavailable
from supervision.nodes import actor_of_node
from supervision.runtime import Address


class Says:
    """An asker to whom node n2 says that its root and its roster are there."""

    def __init__(self, root: str, roster: str) -> None:
        self._root, self._roster = root, roster

    async def ask(self, address: Address | str, contract: Contract, timeout: float = 5.0) -> Any:
        if isinstance(contract, FindActor):
            return ActorFound(address=self._root)
        line = TreeNode(
            path="control/roster",
            kind=ChildKind.WORKER,
            state=ChildStatus.RUNNING,
            address=self._roster,
            pid=7,
        )
        return Tree(nodes=(line,) if self._roster else ())

    def watch(self, address: Address | str, callback: Any) -> Any:
        raise NotImplementedError


async def test_a_node_gives_addresses_of_its_own_processes_only() -> None:
    """Who asks one for its roster would else bring what is for it to another's process."""
    good = Says("n2/5-a/9", "n2/7-b/9")
    assert str(await actor_of_node(good, "n2", 1900, "control/roster", timeout=5)) == "n2/7-b/9"
    for root, roster, why in (
        ("n1/5-a/9", "n2/7-b/9", "node n2 gives n1/5-a/9"),
        ("n2/5-a/9", "n1/7-b/9", "node n2 gives n1/7-b/9"),
        ("n2/5-a/9", "", "doesn't run"),
        ("", "", "no root supervisor"),
    ):
        with pytest.raises(Unavailable, match=why):
            await actor_of_node(Says(root, roster), "n2", 1900, "control/roster", timeout=5)
