"""What operators said of breakers, in PostgreSQL."""

from __future__ import annotations

import asyncpg
import pytest

from actors.contracts import BreakerState
from actors.stores.breakers import keep, kept
from supervision.errors import BadRequest


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


async def test_a_word_about_a_worker_takes_the_place_of_those_about_its_models(
    connection: asyncpg.Connection,
) -> None:
    await keep(connection, [said("w1", "forced_open"), said("w2", "disabled")])
    await keep(connection, [said("w1", "disabled", "")])
    assert await modes(connection) == {("w1", ""): "disabled", ("w2", "m@1"): "disabled"}
    for _ in range(2):  # but for one that is said after it, be it that it decides by itself
        await keep(connection, [said("w1", "automatic"), said("w2", "automatic")])
        assert await modes(connection) == {("w1", ""): "disabled", ("w1", "m@1"): "automatic"}
    assert [s.model_ref for s in await kept(connection)] == ["", "m@1"]
    together = [said("w1", "disabled"), said("w1", "forced_open", ""), said("w1", "automatic")]
    await keep(connection, together)
    assert await modes(connection) == {("w1", ""): "forced_open", ("w1", "m@1"): "automatic"}
    await keep(connection, [said("w1", "automatic", "")])
    assert await kept(connection) == ()
