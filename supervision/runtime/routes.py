"""Routes: the host of every other node by its id, and what a node listens at. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

MAX_LEARNED: Final = 4096  # nodes whose host was seen and never told


class ListenAddress(msgspec.Struct, frozen=True):
    """A host, and its ports `first` to `last`; 0 stands for whichever is free."""

    host: str
    first: int = 0
    last: int = 0

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """From "host", "host:port", "host:first-last"; an IPv6 address with ports in brackets.

        Raises:
            ValueError: it is none of these.
        """
        host, ports = text, ""
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            ports = rest.removeprefix(":")
        elif text.count(":") == 1:
            host, _, ports = text.partition(":")
        first, _, last = ports.partition("-")
        numbers = [first or "0", last or first or "0"]
        if not host or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise ValueError(f'{text[:200]!r} is no place: write "host", "host:port" or "host:a-b"')
        found = cls(host, int(numbers[0]), int(numbers[1]))
        if not 0 <= found.first <= found.last <= 65535:
            raise ValueError(f"the ports of {text[:200]!r} must rise and lie in 1..65535")
        return found


class Routes:
    """Node ids and their hosts. Those that were told come first; what is learned from a
    connection is used where nothing was told."""

    def __init__(self, told: Mapping[str, str] = {}) -> None:
        """
        Raises:
            ValueError: a value of `told` is no place.
        """
        self._told = {node: ListenAddress.parse(where) for node, where in told.items()}
        self._learned: OrderedDict[str, str] = OrderedDict()

    def tell(self, node: str, where: str | None) -> None:
        """From now on `node` is at the place `where`, or at none that we know.

        Raises:
            ValueError: it is no place.
        """
        if where is None:
            self._told.pop(node, None)
            self._learned.pop(node, None)
        else:
            self._told[node] = ListenAddress.parse(where)

    def learn(self, node: str, host: str) -> None:
        """A process of `node` has come from `host`."""
        if node not in self._told:
            self._learned[node] = host
            self._learned.move_to_end(node)
            if len(self._learned) > MAX_LEARNED:
                self._learned.popitem(last=False)

    def host(self, node: str) -> str:
        """
        Raises:
            ValueError: nobody knows where `node` is.
        """
        told = self._told.get(node)
        found = told.host if told is not None else self._learned.get(node)
        if found is None:
            raise ValueError(
                f"nobody knows where node {node} is: add it to the capability 'Routes'"
            )
        return found

    def admin_port(self, node: str) -> int:
        """The port of the Admin of `node`, as far as it was told; 0 if not."""
        told = self._told.get(node)
        return told.first if told is not None else 0

    def node_at(self, host: str, port: int) -> str | None:
        """The node whose Admin was told to be there."""
        for node, place in self._told.items():
            if place.host == host and place.first == port:
                return node
        return None
