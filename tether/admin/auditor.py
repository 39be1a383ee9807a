"""The auditor of a shell: writes down what it is about to do."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from supervision.contracts.operating import WriteAudit
from supervision.errors import TetherError
from supervision.telemetry.audit import BEGINS, Audit, Unwritable
from tether.admin.node import NodeClient

Outcome = Callable[[str], Awaitable[None]]


class Auditor(Protocol):
    """Writes that a command begins; the result writes what came of it.

    Raises:
        Unwritable: it can't; nothing must be done.
    """

    async def begins(self, command: str, arguments: Sequence[str]) -> Outcome: ...


class HereAuditor:
    """Writes to the file of a node of this machine."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def begins(self, command: str, arguments: Sequence[str]) -> Outcome:
        """See `Auditor`. Blocks for as long as the disk takes, which is what it is for."""
        write = self._audit.begins(command, arguments)

        async def outcome(words: str) -> None:
            write(words)

        return outcome


class ThereAuditor:
    """Has a node on another machine write to its file."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node

    async def begins(self, command: str, arguments: Sequence[str]) -> Outcome:
        """See `Auditor`."""
        id_ = uuid.uuid4().hex

        async def outcome(words: str) -> None:
            line = WriteAudit(id=id_, command=command, arguments=tuple(arguments), outcome=words)
            try:
                await self._node.endpoint.ask(self._node.state.root, line)
            except TetherError as error:
                raise Unwritable(
                    f"the node does not write its audit log ({error.message}), so nothing is done"
                ) from error

        await outcome(BEGINS)
        return outcome
