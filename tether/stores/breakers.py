"""What operators have said of breakers, so that it outlives the schedulers."""

from __future__ import annotations

from collections.abc import Sequence

from supervision.policies import Mode
from tether.contracts import BreakerState
from tether.errors import BadRequest
from tether.stores.keys import Connection
from tether.stores.queries import sql

MOST = 4096  # rows that are told; what a scheduler holds at most


async def keep(connection: Connection, said: Sequence[BreakerState]) -> None:
    """Keep the modes of these; one that is automatic again is forgotten. Safe to repeat.

    Raises:
        BadRequest: there is no such mode.
    """
    latest = {(state.worker_id, state.model_ref): state.mode for state in said}
    if not set(latest.values()) <= set(Mode):
        raise BadRequest(f"a breaker's mode is one of {', '.join(Mode)}")
    workers, models = [key[0] for key in latest], [key[1] for key in latest]
    await connection.execute(sql("keep_breakers"), workers, models, list(latest.values()))


async def kept(connection: Connection) -> tuple[BreakerState, ...]:
    """All that aren't automatic, by worker and model; at most `MOST`."""
    rows = await connection.fetch(sql("list_breakers"), MOST)
    return tuple(
        BreakerState(worker_id=r["worker_id"], model_ref=r["model_ref"], mode=r["mode"], state="")
        for r in rows
    )
