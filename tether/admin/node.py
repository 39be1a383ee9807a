"""A running node as the shell reaches it: its tree, its actors, its database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from actors.stores.database import Database
from supervision.contracts import ChildStatus, Contract, ShowTree, Tree, TreeNode
from supervision.contracts.operating import Inspect, Inspected, ShowSpec, SpecShown
from supervision.errors import PeerLost, TetherError
from supervision.runtime import Address, Endpoint
from tether.admin import names
from tether.admin.refused import CommandRefused
from tether.node.home import NodeState, running

ASK_S: Final = 5.0
LOOK_S: Final = 1.0  # how long one of many actors may take to say how it stands
AT_ONCE: Final = 64  # actors that are asked at once

_T = TypeVar("_T", bound=Contract)


class NodeClient:
    """Entered with `async with`.

    Raises, on entering:
        Refused: no node runs on `home`, or it doesn't answer.
    """

    local: ClassVar[bool] = True  # on this machine

    def __init__(
        self, home: Path, *, identity: Path | None = None, routes: Mapping[str, str] = {}
    ) -> None:
        """With its `identity`, children that run on other nodes are reached at `routes`."""
        self.home = home
        self._certificate = str(identity or "")
        self._routes = routes
        self.state: NodeState
        self.endpoint: Endpoint
        self.tree = Tree(nodes=())  # as it was last seen
        self._database: Database | None = None

    async def __aenter__(self) -> Self:
        state = running(self.home)
        if state is None or not state.root:
            raise CommandRefused(f"no node runs on {self.home}; `tether up` starts one")
        self.state = state
        self.endpoint = Endpoint.connect(
            run_dir=state.run_dir,
            node=state.node,
            port=state.admin_port,
            identity_dir=self._certificate,
            routes=self._routes,
        )
        try:
            await self.endpoint.__aenter__()
        except TetherError as error:
            raise CommandRefused(f"{error.message} (or start it with `tether up`)") from error
        except OSError as error:
            raise CommandRefused(
                f"the sockets of the node are not for you ({error.strerror}); be the user that "
                "runs it, or root"
            ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await database.close()
        await self.endpoint.aclose()

    # ---- the tree

    async def look(self) -> Tree:
        """The tree as it is now. A node that was started again meanwhile is reached again.

        Raises:
            Refused: there is no node any more.
            TetherError: the root supervisor doesn't answer.
        """
        try:
            self.tree = await self.ask(self.state.root, ShowTree(), Tree)
        except PeerLost:
            await self._leave()
            await self.__aenter__()
            self.tree = await self.ask(self.state.root, ShowTree(), Tree)
        return self.tree

    async def child(self, name: str) -> TreeNode:
        """
        Raises:
            Refused: there is no such child, or more than one.
        """
        return names.find(await self.look(), name, self.state.node)

    async def process(self, name: str) -> TreeNode:
        """A child that has a process.

        Raises:
            Refused: there is no such child, or it has none.
        """
        found = await self.child(name)
        if not found.address:
            do = (
                f"`restart {found.path}` starts it"
                if found.state is ChildStatus.STOPPED
                else "try again"
            )
            raise CommandRefused(f"{found.path} is {found.state} and has no process; {do}")
        return found

    async def at(self, path: str) -> str:
        """The address of the child at `path`.

        Raises:
            Refused: it doesn't run.
        """
        address = (await self.look()).address(path)
        if address is None:
            raise CommandRefused(f"{path} doesn't run just now; try again, or see `tree`")
        return address

    def supervisor(self, child: TreeNode) -> str:
        """The address of the supervisor of `child`, as last seen.

        Raises:
            Refused: it has none, or that doesn't run.
        """
        if not child.path:
            raise CommandRefused("the root has no supervisor; `tether down` stops the node", code=2)
        parent = child.path.rpartition("/")[0]
        address = self.tree.address(parent)
        if address is None:
            raise CommandRefused(
                f"the supervisor {parent or names.ROOT} doesn't run just now; try again"
            )
        return address

    async def spec(self, child: TreeNode) -> dict[str, str]:
        """What a child was made from, in words; empty when nobody says."""
        if not child.path:
            return {}
        try:
            question = ShowSpec(id=child.path.rpartition("/")[2])
            found = await self.ask(self.supervisor(child), question, SpecShown)
        except (TetherError, CommandRefused):
            return {}
        return {name: value for name, value in found.fields if value}

    # ---- its actors

    async def ask(
        self, address: str, contract: Contract, answer: type[_T], timeout: float = ASK_S
    ) -> _T:
        """
        Raises:
            TetherError: what the actor says, or that it says nothing.
            Refused: it answers with something else.
        """
        found = await self.endpoint.ask(address, contract, timeout)
        if not isinstance(found, answer):
            raise CommandRefused("the node is of another release; use the `tether` that started it")
        return found

    async def inspected(self, nodes: Iterable[TreeNode]) -> dict[str, Inspected | None]:
        """How these children stand, by path; None for those that don't answer in a second."""
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(node: TreeNode) -> tuple[str, Inspected | None]:
            async with turn:
                try:
                    return node.path, await self.ask(node.address, Inspect(), Inspected, LOOK_S)
                except TetherError:
                    return node.path, None

        return dict(await asyncio.gather(*(one(node) for node in nodes if node.address)))

    def here(self, child: TreeNode) -> bool:
        """Is its process on this machine?"""
        return self.local and Address.parse(child.address).node == self.state.node

    # ---- its database

    async def database(self) -> Database:
        """
        Raises:
            Refused: the node has none that this shell can reach.
            TetherError: it doesn't answer.
        """
        await self.look()  # a node that is gone has no database
        if self._database is None:
            if not self.state.dsn:
                raise CommandRefused(
                    "this node has no database: it hasn't the role control; ask at one that has"
                )
            database = Database(self.state.dsn, size=1)
            await database.open()
            self._database = database
        return self._database

    async def rows(self, statement: str, *args: Any) -> list[dict[str, Any]]:
        """The rows of a statement.

        Raises:
            TetherError: the database doesn't answer.
        """
        return [dict(row) for row in await (await self.database()).fetch(statement, *args)]
