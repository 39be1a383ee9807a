"""`tether tree`."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import msgspec
from rich.markup import escape
from rich.tree import Tree as Drawing

from supervision.contracts import ChildStatus, ShowTree, Tree, TreeNode
from tether.admin.grid import console
from tether.cli.node import ask, state_of
from tether.config import Config
from tether.node.home import NodeState

_COLOURS: Final = {
    ChildStatus.RUNNING: "green",
    ChildStatus.STARTING: "yellow",
    ChildStatus.RESTARTING: "yellow",
}


def tree(config: Config, *, as_json: bool) -> int:
    """Print the supervision tree of the node of `config`.

    Raises:
        CommandFailed: no node runs, or its root supervisor does not answer.
    """
    state = state_of(config)
    found = ask(config, ShowTree(), Tree, what="show its tree")
    if as_json:
        for node in found.nodes:
            print(msgspec.json.encode(_as_dict(node)).decode())
    else:
        print(f"{state.url}  (tether up: pid {state.pid})")
        console().print(drawn(found, state))
    return 0


def drawn(tree: Tree, state: NodeState) -> Drawing:
    """The tree as rich draws it, the node's own process at the top."""
    root = next((node for node in tree.nodes if not node.path), None)
    top = Drawing(_line(root, state.node, state.node) if root else f"[bold]{escape(state.node)}[/]")
    branches = {"": top}
    for node in tree.nodes:
        parent, _, id_ = node.path.rpartition("/")
        if node.path:
            branches[node.path] = branches.get(parent, top).add(_line(node, id_, state.node))
    return top


def _line(node: TreeNode, id_: str, own: str) -> str:
    colour = _COLOURS.get(node.state, "red")
    words = [
        f"[bold]{escape(id_)}[/]",
        f"[{colour}]{node.state}[/] {timedelta(seconds=int(node.since_s))}",
    ]
    if node.strategy:
        words.insert(1, f"[dim]{escape(node.strategy)}[/]")
    if node.pid:
        words.append(f"pid {node.pid}")
    if node.address and (where := node.address.partition("/")[0]) != own:
        words.append(f"[bold]at {escape(where)}[/]")  # placed there; the pid is of that machine
    if node.restarts:
        words.append(f"[yellow]restarts {node.restarts}[/]")
    if node.last_exit:
        words.append(f"[dim]last exit: {escape(node.last_exit)}[/]")
    return "  ".join(words)


def _as_dict(node: TreeNode) -> dict[str, object]:
    return {field: getattr(node, field) for field in node.__struct_fields__}
