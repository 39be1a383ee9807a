"""The names of children: which child of a tree an operator means. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from supervision.contracts import Tree, TreeNode
from tether.admin.refused import CommandRefused

ROOT: Final = "root"
_NEAR: Final = 3


def find(tree: Tree, name: str, node: str = "") -> TreeNode:
    """The child that `name` means: its path, the last part of it where only one child has that
    (`echo.n1`, also without what follows the dot), its pid, or `root` (also `node`, the id of the
    node) for the top.

    Raises:
        Refused: there is none, or more than one; with those that are near.
    """
    wanted = name.strip("/")
    if wanted in (ROOT, node, ""):
        top = next((n for n in tree.nodes if not n.path), None)
        if top is not None and name:
            return top
    found = [n for n in tree.nodes if n.path and n.path == wanted]
    found = found or [n for n in tree.nodes if n.path and n.path.rpartition("/")[2] == wanted]
    found = found or [n for n in tree.nodes if wanted and _stem(n.path) == wanted]
    if not found and wanted.isdecimal():
        found = [n for n in tree.nodes if n.pid == int(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandRefused(
            f"{name!r} may be {listed(n.path for n in found)}; write the whole path", code=2
        )
    raise CommandRefused(f"there is no {name!r} here; {nearest(name, names(tree))}", code=2)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def names(tree: Tree) -> list[str]:
    """The paths of all children, and `root`."""
    return [n.path or ROOT for n in tree.nodes]


def nearest(name: str, known: list[str], everything: str = "`tree` shows all") -> str:
    """A hint at what may have been meant by `name`; `everything` says where all are shown."""
    last = {k.rpartition("/")[2]: k for k in known}
    near = [k for k in known if name and k.rpartition("/")[2].startswith(name)]
    near += get_close_matches(name, known, _NEAR, 0.6)
    near += [last[n] for n in get_close_matches(name, last, _NEAR, 0.6)]
    near = list(dict.fromkeys(near))[:_NEAR]
    if near:
        return f"did you mean {listed(near)}?"
    if len(known) <= 8:
        return f"there are {listed(known)}" if known else "there are none"
    return everything


def listed(words: Iterable[str]) -> str:
    """Words as a sentence has them: a, b or c."""
    found = list(words)
    if len(found) < 2:
        return "".join(found)
    return f"{', '.join(found[:-1])} or {found[-1]}"
