"""What operators said of breakers, in PostgreSQL."""

from __future__ import annotations

import asyncpg
import pytest

from tether.contracts import BreakerState
from tether.errors import BadRequest
from tether.stores.breakers import keep, kept


def said(worker: str, mode: str, model: str = "m@1") -> BreakerState:
    return BreakerState(worker_id=worker, model_ref=model, mode=mode, state="closed")


async def modes(connection: asyncpg.Connection) -> dict[tuple[str, str], str]:
    return {(s.worker_id, s.model_ref): s.mode for s in await kept(connection)}


async def test_the_last_word_is_kept_and_an_automatic_one_is_forgotten(
    connection: asyncpg.Connection,
) -> None:
    assert await kept(connection) == ()
    await keep(connection, [said("w1", "forced_open"), said("w2", "disabled", "other@1")])
    assert await modes(connection) == {("w1", "m@1"): "forced_open", ("w2", "other@1"): "disabled"}
    twice = [said("w1", "disabled"), said("w1", "forced_open"), said("w2", "automatic", "other@1")]
    for _ in range(2):
        await keep(connection, twice)
        assert await modes(connection) == {("w1", "m@1"): "forced_open"}
    await keep(connection, [said("w1", "automatic"), said("unheard of", "automatic")])
    assert await kept(connection) == ()


async def test_there_are_three_modes(connection: asyncpg.Connection) -> None:
    with pytest.raises(BadRequest, match="automatic, forced_open, disabled"):
        await keep(connection, [said("w1", "ajar")])
