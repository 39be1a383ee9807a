"""The settler, against a reservation that follows a script."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.contracts import Outcome, Settle, Settled, Usage
from actors.reservation import settler
from actors.reservation.settler import Settler
from supervision.errors import BadRequest, Internal, NoAnswer, PeerLost, Unavailable
from supervision.policies import RetryOptions

SETTLE = Settle(job_id="j", fencing_token=1, outcome=Outcome.COMPLETED, usage=Usage())


class Actor:
    """What a settler needs of its actor; its tree is itself."""

    def __init__(self, *answers: object, address: str | None = "n/r/0") -> None:
        self.answers = iter(answers)
        self.known = address
        self.waits = 0
        self.asks = 0
        self.tree = self
        self.loop = asyncio.get_running_loop()

    def address(self, path: str) -> str | None:
        return self.known

    async def wait(self, path: str, timeout: float) -> str:
        assert 0 < timeout <= settler.ASK_S
        self.waits += 1
        return "n/r/1"

    async def ask(self, address: Any, contract: Settle, timeout: float) -> Settled:
        self.asks += 1
        assert contract is SETTLE
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return Settled(job_id="j", first=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RetryOptions(attempts=0, initial_s=0.001, max_s=0.002, heeds=False)
    monkeypatch.setattr(settler, "RETRY", options)


async def test_the_common_case_is_one_ask() -> None:
    actor = Actor("settled")
    assert await Settler(actor, "test").settle(SETTLE)  # type: ignore[arg-type]
    assert (actor.asks, actor.waits) == (1, 0)


async def test_it_is_asked_again_whatever_went_wrong() -> None:
    actor = Actor(
        PeerLost("killed"), NoAnswer("hangs"), Internal("a bug"), Unavailable("no"), "yes"
    )
    assert await Settler(actor, "test").settle(SETTLE)  # type: ignore[arg-type]
    assert (actor.asks, actor.waits) == (5, 4)


async def test_one_that_is_away_is_waited_for() -> None:
    actor = Actor("settled", address=None)
    assert await Settler(actor, "test").settle(SETTLE)  # type: ignore[arg-type]
    assert (actor.asks, actor.waits) == (1, 1)


@pytest.mark.parametrize("first", [[], [PeerLost("killed")]])
async def test_a_refusal_is_an_answer(first: list[Exception]) -> None:
    actor = Actor(*first, BadRequest("no such job"))
    assert not await Settler(actor, "test").settle(SETTLE)  # type: ignore[arg-type]
    assert actor.asks == len(first) + 1


async def test_it_is_given_up_when_its_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "PATIENCE_S", 0.05)
    actor = Actor(*[Unavailable("away") for _ in range(1000)])
    assert not await Settler(actor, "test").settle(SETTLE)  # type: ignore[arg-type]
    assert 25 < actor.asks < 100
