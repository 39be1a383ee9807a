"""The driver of policies around asking another actor, maybe another one at each attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from supervision.contracts import Contract
from supervision.errors import BadRequest, TetherError, Unavailable
from supervision.policies.async_driver import Attempt, OnAgain, run
from supervision.policies.policy import NEVER
from supervision.policies.stack import Stack

ASK_S = 10.0


class AsksActors(Protocol):
    """An actor, or an endpoint."""

    async def ask(self, address: Any, contract: Contract, timeout: float = ...) -> Any: ...


class ActorDriver:
    """Asks whoever `find` names at each attempt: a child that was restarted has another address.

    Args:
        find: given the seconds left, returns an address, or waits for one; what it raises is
            the attempt's failure.
        ask_s: the longest that one ask may take, where no policy says less. One that takes
            longer has failed, and may be tried again.
        persists: so may whatever else is raised, but for the request's own fault. For what has
            to be done, and is safe to do twice.
    """

    def __init__(
        self,
        actor: AsksActors,
        stack: Stack,
        find: Callable[[float], Awaitable[Any]],
        *,
        ask_s: float = ASK_S,
        persists: bool = False,
    ) -> None:
        self._actor = actor
        self._stack = stack
        self._find = find
        self._ask_s = ask_s
        self._persists = persists

    async def ask(
        self, contract: Contract, *, until: float = NEVER, on_again: OnAgain | None = None
    ) -> Any:
        """The answer. `contract` must be safe to see twice, or the stack be without a retry.

        Raises:
            what the last attempt raised, or what a policy says in its place.
        """

        async def once(attempt: Attempt) -> Any:
            try:
                address = await self._find(min(self._ask_s, attempt.remaining_s()))
                return await self._actor.ask(
                    address, contract, timeout=min(self._ask_s, attempt.remaining_s())
                )
            except TetherError as error:
                if not self._persists or isinstance(error, BadRequest):
                    raise
                raise Unavailable(error.message) from error

        return await run(self._stack, once, until=until, on_again=on_again)
