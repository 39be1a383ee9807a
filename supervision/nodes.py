"""The way from a process of one node to those of another: Admin, root, tree.

Only the place of the other node's Admin is known beforehand (its host from the capability
"Routes", its port from the configuration); everything else is asked for::

    roster = await actor_of_node(self, "n2", port, "control/roster", timeout=5.0)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from supervision.contracts import ActorFound, Contract, FindActor, ShowTree, Tree
from supervision.errors import NoAnswer, Unavailable
from supervision.runtime import Address

ROOT: Final = "root"  #: the global name of a node's root supervisor


class Asker(Protocol):
    """An actor or an endpoint."""

    async def ask(self, address: Address | str, contract: Contract, timeout: float = ...) -> Any:
        """See `Actor.ask`."""

    def watch(self, address: Address | str, callback: Callable[[], object]) -> Callable[[], None]:
        """See `Actor.watch`."""


async def root_of_node(asker: Asker, node: str, admin_port: int, *, timeout: float) -> Address:
    """The root supervisor of `node`.

    Raises:
        PeerLost: the node can't be reached, or refuses us.
        NoAnswer: it did not answer within `timeout` seconds.
        Unavailable: it runs, and has no root (yet).
    """
    admin = Address.admin(node, admin_port)
    found: ActorFound = await asker.ask(admin, FindActor(name=ROOT), timeout=timeout)
    if not found.address:
        raise Unavailable(f"node {node} has no root supervisor (yet): it is starting or stopping")
    return of_node(node, found.address)


async def actor_of_node(
    asker: Asker, node: str, admin_port: int, path: str, *, timeout: float
) -> Address:
    """The child of `node` at `path`.

    Raises:
        PeerLost: the node can't be reached, or refuses us.
        NoAnswer: it did not answer within `timeout` seconds.
        Unavailable: there is none (yet), or the node says that it is at another one.
    """
    tree = await tree_of_node(asker, node, admin_port, timeout=timeout)
    address = tree.address(path)
    if address is None:
        raise Unavailable(f"{path} of node {node} doesn't run")
    return of_node(node, address)


def of_node(node: str, address: str) -> Address:
    """What `node` says is the address of one of its processes.

    Raises:
        Unavailable: it is no address of `node`, which speaks of its own processes only.
    """
    found = Address.parse(address)
    if found.node != node:
        raise Unavailable(f"node {node} gives {address} for one of its own processes")
    return found


async def tree_of_node(asker: Asker, node: str, admin_port: int, *, timeout: float) -> Tree:
    """All children of `node` as they are now; `Tree.address("control/roster")` is its roster.

    Raises:
        PeerLost: the node can't be reached, or refuses us.
        NoAnswer: it did not answer within `timeout` seconds.
        Unavailable: it runs, and has no root (yet).
    """
    try:
        async with asyncio.timeout(timeout):
            root = await root_of_node(asker, node, admin_port, timeout=timeout)
            tree: Tree = await asker.ask(root, ShowTree(), timeout=timeout)
            return tree
    except TimeoutError:
        raise NoAnswer(f"node {node} did not answer within {timeout:g} s") from None
