"""How long tests wait for what must happen, and it is never the clock that decides.

The machine of a test run may be three times slower than another, and may stand still for
seconds. So a test waits for the thing it shows, for `PATIENCE_S`, which only says that it will
never come; and where a bound of the product would interfere, the test sets that bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

from supervision.contracts import Contract
from supervision.runtime import Address, Endpoint

PATIENCE_S: Final = 60.0
NEVER_S: Final = 600.0  # for bounds of the product that a test must not meet


async def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Waits for something in this process that has no event to wait for."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class PatientEndpoint(Endpoint):
    """Gives up where an answer will never come, not where it is late."""

    @classmethod
    def connect(cls, **options: Any) -> Self:  # type: ignore[override]
        return super().connect(**{"timeout": PATIENCE_S, **options})  # type: ignore[return-value]

    async def ask(
        self, address: Address | str, contract: Contract, timeout: float = PATIENCE_S
    ) -> Any:
        return await super().ask(address, contract, timeout)

    async def create(
        self,
        actor_class: type | str,
        *,
        timeout: float = PATIENCE_S,
        global_name: str | None = None,
    ) -> Address:
        return await super().create(actor_class, timeout=timeout, global_name=global_name)
