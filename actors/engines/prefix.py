"""A tree of the beginnings of answers, found by their tokens. What was computed for them is a piece
that only the owner looks into.

A tree per scope: a node has a stretch of tokens and their piece, and what follows it in several
answers hangs below it, so what they have in common is held once. The least recently used end goes
first.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens at their beginnings are equal. Compares slices: no loop over tokens."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # equal up to `low`, and not up to `high`
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


class _Node(Generic[Piece]):
    __slots__ = ("follow", "parent", "piece", "scope", "tokens")

    def __init__(
        self,
        scope: str,
        tokens: tuple[int, ...] = (),
        piece: Piece | None = None,
        parent: _Node[Piece] | None = None,
    ) -> None:
        self.scope = scope
        self.tokens = tokens
        self.piece = piece
        self.parent = parent
        self.follow: dict[int, _Node[Piece]] = {}  # by the first of their tokens


class Prefixes(Generic[Piece]):
    """At most `room` tokens and their pieces. `cut(piece, at)` makes two of one, which keep
    nothing of each other alive."""

    def __init__(self, room: int, cut: Callable[[Piece, int], tuple[Piece, Piece]]) -> None:
        self.tokens = 0
        """Held now."""
        self.evicted = 0
        """Given up for others, ever."""
        self._room = room
        self._cut = cut
        self._roots: dict[str, _Node[Piece]] = {}
        # least recently used first; a node always comes after all that follow it, so the first
        # is an end
        self._used: OrderedDict[_Node[Piece], None] = OrderedDict()

    def length(self, scope: str, tokens: tuple[int, ...]) -> int:
        """How many of `tokens`, from the first on, are held."""
        return sum(count for _, count in self._walk(scope, tokens))

    def find(self, scope: str, tokens: tuple[int, ...]) -> list[tuple[Piece, int]]:
        """The pieces of as many `tokens` as are held, in their order, and how many tokens of
        each; that counts as use."""
        path = self._walk(scope, tokens)
        self._touch(path)
        return [(node.piece, count) for node, count in path if node.piece is not None]

    def add(self, scope: str, tokens: tuple[int, ...], make: Callable[[int, int], Piece]) -> None:
        """Hold the first of `tokens`, as many as there is room for. What is held already counts
        as used; `make(start, end)` gives the piece of the rest, once there is room for it."""
        tokens = tokens[: self._room]
        path = self._walk(scope, tokens)
        held = sum(count for _, count in path)
        if held < len(tokens) and path and path[-1][1] < len(path[-1][0].tokens):
            path[-1] = self._split(*path[-1])
        self._touch(path)
        if held == len(tokens):
            return
        while self.tokens + len(tokens) - held > self._room:
            self._evict()
        piece = make(held, len(tokens))
        parent = path[-1][0] if path else self._roots.setdefault(scope, _Node(scope))
        node = _Node(scope, tokens[held:], piece, parent)
        parent.follow[node.tokens[0]] = node
        self.tokens += len(node.tokens)
        self._used[node] = None
        self._touch(path)

    def _walk(self, scope: str, tokens: tuple[int, ...]) -> list[tuple[_Node[Piece], int]]:
        """The nodes along `tokens`, and how many tokens of each: all, but perhaps of the last."""
        path: list[tuple[_Node[Piece], int]] = []
        node, at = self._roots.get(scope), 0
        while node is not None and at < len(tokens):
            node = node.follow.get(tokens[at])
            if node is None:
                break
            count = common(node.tokens, tokens[at : at + len(node.tokens)])
            path.append((node, count))
            at += count
            if count < len(node.tokens):
                break
        return path

    def _touch(self, path: list[tuple[_Node[Piece], int]]) -> None:
        for node, _ in reversed(path):
            self._used.move_to_end(node)

    def _split(self, node: _Node[Piece], at: int) -> tuple[_Node[Piece], int]:
        """The first `at` tokens of `node` become a node before it."""
        assert node.piece is not None
        assert node.parent is not None
        first, rest = self._cut(node.piece, at)
        head = _Node(node.scope, node.tokens[:at], first, node.parent)
        node.parent.follow[head.tokens[0]] = head
        node.tokens, node.piece, node.parent = node.tokens[at:], rest, head
        head.follow[node.tokens[0]] = node
        self._used[head] = None
        return head, at

    def _evict(self) -> None:
        node, _ = self._used.popitem(last=False)
        assert not node.follow
        assert node.parent is not None
        del node.parent.follow[node.tokens[0]]
        self.tokens -= len(node.tokens)
        self.evicted += len(node.tokens)
        if node.parent.parent is None and not node.parent.follow:
            del self._roots[node.scope]
