"""The settler, against a reservation that follows a script."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actors.contracts import ControlNode, ControlPlane, Outcome, Settle, Settled, Usage
from actors.core.control_lookup import ControlLookup
from actors.reservation import settler
from actors.reservation.settler import RESERVATION, Settler
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
        assert 0 < timeout <= settler.PATIENCE_S
        self.waits += 1
        return "n/r/1"

    async def ask(self, address: Any, contract: Settle, timeout: float) -> Settled:
        self.asks += 1
        assert contract.job_id == SETTLE.job_id
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


class Elsewhere(Actor):
    """At a node without control: its roster has told of others, and who is asked is noted."""

    def __init__(self, *answers: object) -> None:
        super().__init__(*answers, address=None)
        self.asked: list[str] = []

    def background(self, work: Any, *, name: str) -> None:
        work.close()

    def on_change(self, callback: object) -> None:
        """The tree stays as it is."""

    async def ask(self, address: Any, contract: Settle, timeout: float) -> Settled:
        self.asked.append(address.node)
        return await super().ask(address, contract, timeout)


def elsewhere(actor: Actor, *nodes: str) -> ControlLookup:
    made = ControlLookup(actor, elsewhere=True, region="eu")  # type: ignore[arg-type]
    path = RESERVATION
    made._see(
        ControlPlane(
            nodes=tuple(
                ControlNode(node=node, region="eu", addresses={path: f"{node}/1/1"})
                for node in nodes
            )
        )
    )
    return made


async def test_without_a_reservation_of_its_own_it_asks_the_one_that_made_the_job() -> None:
    actor = Elsewhere("settled")
    where = elsewhere(actor, "c1", "c2", "c3")
    assert await Settler(actor, "test", where).settle(SETTLE, near="c2")  # type: ignore[arg-type]
    assert actor.asked == ["c2"]


async def test_the_loss_of_the_control_node_is_survived_by_asking_others() -> None:
    actor = Elsewhere(PeerLost("killed"), NoAnswer("hangs"), Unavailable("no database"), "yes")
    where = elsewhere(actor, "c1", "c2", "c3")
    assert await Settler(actor, "test", where).settle(SETTLE, near="c2")  # type: ignore[arg-type]
    assert actor.asked[:3] == ["c2", "c1", "c3"]
    assert len(actor.asked) == 4


async def test_a_control_node_that_comes_later_is_waited_for() -> None:
    actor = Elsewhere("settled")
    where = elsewhere(actor)
    settling = asyncio.create_task(
        Settler(actor, "test", where).settle(SETTLE)  # type: ignore[arg-type]
    )
    await asyncio.sleep(0)
    there = ControlNode(node="c9", region="us", addresses={RESERVATION: "c9/1/1"})
    where._see(ControlPlane(nodes=(there,)))
    assert await settling
    assert actor.asked == ["c9"]


async def test_a_bill_is_never_given_up() -> None:
    actor = Actor(*[Unavailable("away") for _ in range(500)], "yes")
    billed = msgspec.structs.replace(SETTLE, usage=Usage(prompt_tokens=1))
    settling = asyncio.create_task(Settler(actor, "test").settle(billed))  # type: ignore[arg-type]
    await asyncio.sleep(3 * settler.LAPSE_S)
    assert actor.asks == 501
    assert await settling


async def test_what_nothing_is_billed_of_is_given_up() -> None:
    actor = Actor(*[Unavailable("away") for _ in range(100_000)])
    began = asyncio.get_running_loop().time()
    assert not await Settler(actor, "test").settle(SETTLE)  # type: ignore[arg-type]
    assert asyncio.get_running_loop().time() - began >= settler.LAPSE_S
