"""Circuit-breaker overrides in PostgreSQL, so that they outlive the schedulers."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from actors.contracts import BreakerState
from actors.stores.keys import DatabaseConnection
from actors.stores.queries import sql
from supervision.errors import BadRequest
from supervision.policies import Mode

MOST = 4096  # rows that are told; what a scheduler holds at most


async def keep(connection: asyncpg.Connection, said: Sequence[BreakerState]) -> None:
    """Keep the modes of these. One without a model is about all of a worker, and those about its
    models from before are forgotten; an automatic one is kept only where the worker's says
    otherwise. Safe to repeat.

    Raises:
        BadRequest: there is no such mode.
    """
    latest: dict[tuple[str, str], str] = {}
    for state in said:
        if not state.model_ref:
            for key in [key for key in latest if key[0] == state.worker_id]:
                del latest[key]
        latest[state.worker_id, state.model_ref] = state.mode
    if not set(latest.values()) <= set(Mode):
        raise BadRequest(f"a breaker's mode is one of {', '.join(Mode)}")
    workers, models = [key[0] for key in latest], [key[1] for key in latest]
    async with connection.transaction():
        await connection.execute(sql("forget_breakers"), workers, models)
        await connection.execute(sql("keep_breakers"), workers, models, list(latest.values()))


async def kept(connection: DatabaseConnection) -> tuple[BreakerState, ...]:
    """All that hold, by worker and model, that of a whole worker first; at most `MOST`."""
    rows = await connection.fetch(sql("list_breakers"), MOST)
    return tuple(
        BreakerState(worker_id=r["worker_id"], model_ref=r["model_ref"], mode=r["mode"], state="")
        for r in rows
    )
