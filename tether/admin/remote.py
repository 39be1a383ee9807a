"""A node on another machine, reached by mutual TLS with the certificate of an operator."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from actors.stores.database import Database
from supervision.errors import PeerLost, TetherError
from supervision.nodes import root_of_node
from supervision.runtime import Address, Endpoint
from supervision.runtime.routes import ListenAddress
from supervision.security.identity import Identity, IdentityUnusable
from supervision.security.name import OPERATOR
from tether.admin.node import ASK_S, NodeClient
from tether.admin.refused import CommandRefused
from tether.node.home import NodeState

DEFAULT_PORT = 1900


class RemoteNode(NodeClient):
    """The node called `id` at `place` ("host:port" of its Admin). What only its own machine can
    tell isn't there: its database, the processes beside its tree."""

    local = False

    def __init__(
        self, id_: str, place: str, identity: Path, routes: Mapping[str, str] = {}
    ) -> None:
        """`routes` lead to other nodes, on which its children may run.

        Raises:
            Refused: `place` or `identity` can't be used.
        """
        super().__init__(Path(), identity=identity, routes=routes)
        try:
            self._place = ListenAddress.parse(place)
            name = Identity.named(identity)
        except (ValueError, IdentityUnusable) as error:
            raise CommandRefused(str(error), code=2) from error
        if not name.node.startswith(OPERATOR):
            raise CommandRefused(
                f"the certificate in {identity} is of a node, {name.node}, and no operator's; "
                f"`tether ca issue {OPERATOR}NAME` makes one",
                code=2,
            )
        self.operator = name.node
        self._id = id_
        self._sockets = tempfile.TemporaryDirectory(prefix="tether-")

    async def __aenter__(self) -> Self:
        port = self._place.first or DEFAULT_PORT
        self.endpoint = Endpoint.connect(
            run_dir=self._sockets.name,
            node=self.operator,
            identity_dir=self._certificate,
            routes={**self._routes, self._id: f"{self._place.host}:{port}"},
        )
        self.endpoint.admin = Address.admin(self._id, port)
        silent = (
            f"node {self._id} does not answer at {self._place.host}:{port}, or refuses the "
            f"certificate of {self.operator}; its log says which"
        )
        try:
            await self.endpoint.__aenter__()
        except TetherError as error:
            raise CommandRefused(silent) from error
        try:
            root = await root_of_node(self.endpoint, self._id, port, timeout=ASK_S)
        except TetherError as error:
            await self.endpoint.aclose()
            raise CommandRefused(
                silent if isinstance(error, PeerLost) else error.message
            ) from error
        self.state = NodeState(
            pid=0, node=self._id, run_dir="", admin_port=port, root=str(root),
            url=f"{self._place.host}:{port}",
        )  # fmt: skip
        return self

    async def __aexit__(self, *error: Any) -> None:
        try:
            await super().__aexit__(*error)
        finally:
            self._sockets.cleanup()

    async def database(self) -> Database:
        """
        Raises:
            Refused: it is reached on the node's own machine only.
        """
        raise CommandRefused("the database is for the node's own machine; use `tether shell` there")
