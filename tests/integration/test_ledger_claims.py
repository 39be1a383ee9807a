"""Who may have a job, and who may take it: one suite for the ledger in PostgreSQL and for the one
of the simulation."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any, Protocol

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from actors.contracts import Assignment, JobState, Outcome, Reserve, Settle, Usage
from actors.core.ids import job_id
from actors.errors import KeyReused
from actors.stores.ledger import Ledger, LedgerOptions
from bench.simulation.ledger import Ledger as Simulated
from tests.support.messages import changed, reserve
from tests.support.waiting import PATIENCE_S

USAGE = Usage(prompt_tokens=3, completion_tokens=5)


class Asked(Protocol):
    """What both ledgers are for."""

    async def reserve(self, msg: Reserve) -> Assignment: ...
    async def settle(self, msg: Settle) -> bool: ...
    async def leases(self) -> int: ...
    async def bills(self) -> list[tuple[int, int]]: ...


class InPostgres:
    def __init__(self, ledger: Ledger, connection: asyncpg.Connection) -> None:
        self._ledger, self._connection = ledger, connection

    async def reserve(self, msg: Reserve) -> Assignment:
        return (await self._ledger.reserve(msg)).assignment

    async def settle(self, msg: Settle) -> bool:
        return (await self._ledger.settle(msg)).first

    async def leases(self) -> int:
        return int(await self._connection.fetchval("SELECT count(*) FROM leases"))

    async def bills(self) -> list[tuple[int, int]]:
        rows = await self._connection.fetch(
            "SELECT sum(prompt_tokens)::int, sum(output_tokens)::int FROM ledger GROUP BY job_id"
        )
        return [(row[0], row[1]) for row in rows]


class InMemory:
    def __init__(self) -> None:
        self._ledger = Simulated()

    async def reserve(self, msg: Reserve) -> Assignment:
        return self._ledger.reserve(msg, 0.0).assignment

    async def settle(self, msg: Settle) -> bool:
        return self._ledger.settle(msg)

    async def leases(self) -> int:
        return len(self._ledger.leases)

    async def bills(self) -> list[tuple[int, int]]:
        usages = [bill.usage for bill in self._ledger.bills.values()]
        return [(usage.prompt_tokens, usage.completion_tokens) for usage in usages]


@pytest_asyncio.fixture(params=["postgres", "simulated"])
async def ledger(
    request: pytest.FixtureRequest, dsn: str, connection: asyncpg.Connection
) -> AsyncIterator[Asked]:
    if request.param == "simulated":
        yield InMemory()
        return
    patient = LedgerOptions(
        reserve_patience_s=PATIENCE_S, settle_patience_s=PATIENCE_S, statement_s=PATIENCE_S
    )
    async with Ledger(dsn, patient) as opened:
        yield InPostgres(opened, connection)


class Asker:
    """A flight of some gateway, as far as reservation sees it."""

    _claims = itertools.count(1)

    def __init__(self, token: str = "t") -> None:
        self.token = token
        self.job_id = job_id()
        self.held = 0
        self.attempt = 0

    def asks(self, worker: str, **changes: Any) -> Reserve:
        """The next ask, of which it isn't known yet whether it arrives."""
        self.attempt += 1
        held, self.held = self.held, next(self._claims)
        ask = reserve(
            self.token,
            job_id=self.job_id,
            worker_id=worker,
            worker_address=f"n1/{worker}/1",
            attempt=self.attempt,
            claim_token=self.held,
            held_claim_token=held,
        )
        return changed(ask, **changes)

    def told(self, given: Assignment) -> Assignment:
        self.job_id, self.held = given.job_id, given.claim_token
        return given


def settle(given: Assignment, outcome: Outcome = Outcome.COMPLETED) -> Settle:
    return Settle(
        job_id=given.job_id, fencing_token=given.fencing_token, outcome=outcome, usage=USAGE
    )


async def test_an_ask_that_comes_twice_is_answered_alike(ledger: Asked) -> None:
    one, other = Asker(), Asker()
    first = one.asks("w1")
    given = one.told(await ledger.reserve(first))
    assert (given.fencing_token, given.state, given.claim_token) == (
        1,
        JobState.NEW,
        first.ownership.claim_token,
    )
    assert await ledger.reserve(first) == given
    ask = other.asks("w2")
    led = other.told(await ledger.reserve(ask))
    assert (led.job_id, led.worker_id, led.fencing_token) == (given.job_id, "w1", 1)
    assert (led.state, led.claim_token) == (JobState.RUNNING, ask.ownership.claim_token)
    assert await ledger.reserve(ask) == led
    move = other.asks("w2")
    moved = await ledger.reserve(move)
    assert (moved.worker_id, moved.fencing_token, moved.state) == ("w2", 2, JobState.NEW)
    assert await ledger.reserve(move) == moved
    assert await ledger.leases() == 1


async def test_who_holds_the_claim_moves_the_job_as_often_as_need_be(ledger: Asked) -> None:
    asker = Asker()
    tokens = []
    for worker in ("w1", "w2", "w3", "w1"):
        reserved = asker.told(await ledger.reserve(asker.asks(worker)))
        assert (reserved.worker_id, reserved.state) == (worker, JobState.NEW)
        tokens.append(reserved.fencing_token)
    assert tokens == [1, 2, 3, 4]


async def test_a_late_move_of_the_dead_takes_nothing_from_those_led_to_the_run(
    ledger: Asked,
) -> None:
    """Its gateway died when it had asked for another worker; the one that followed attached to
    the run, which goes on, and whose answer must be billed."""
    dead, alive = Asker(), Asker()
    given = dead.told(await ledger.reserve(dead.asks("w1")))
    late = dead.asks("w2")
    led = alive.told(await ledger.reserve(alive.asks("w3")))
    assert (led.worker_id, led.fencing_token, led.state) == ("w1", 1, JobState.RUNNING)
    refused = await ledger.reserve(late)
    assert (refused.worker_id, refused.fencing_token, refused.state) == ("w1", 1, JobState.RUNNING)
    assert await ledger.settle(settle(given))
    assert await ledger.bills() == [(3, 5)]


async def test_a_late_move_of_the_dead_takes_nothing_from_a_later_run(ledger: Asked) -> None:
    """Of the same attempt, of a higher one, and to the same worker."""
    for worker, attempt in (("w2", 2), ("w4", 2), ("w4", 3)):
        token = f"{worker}-{attempt}"
        dead, alive = Asker(token), Asker(token)
        dead.told(await ledger.reserve(dead.asks("w1")))
        late = dead.asks(worker, attempt=attempt)
        alive.told(await ledger.reserve(alive.asks("w3")))
        moved = alive.told(await ledger.reserve(alive.asks("w2")))
        assert (moved.worker_id, moved.fencing_token, moved.state) == ("w2", 2, JobState.NEW)
        refused = await ledger.reserve(late)
        assert (refused.fencing_token, refused.state, refused.claim_token) == (
            2,
            JobState.RUNNING,
            moved.claim_token,
        )
        assert await ledger.settle(settle(moved))
    assert await ledger.bills() == [(3, 5)] * 3


async def test_two_who_live_lose_their_worker_and_one_of_them_moves_the_job(
    ledger: Asked,
) -> None:
    """The other is told the claim, so neither waits for the other."""
    one, other = Asker(), Asker()
    one.told(await ledger.reserve(one.asks("w1")))
    other.told(await ledger.reserve(other.asks("w2")))
    back = one.told(await ledger.reserve(one.asks("w2")))
    assert (back.fencing_token, back.state, back.claim_token) == (1, JobState.RUNNING, other.held)
    moved = one.told(await ledger.reserve(one.asks("w2")))
    assert (moved.fencing_token, moved.state) == (2, JobState.NEW)
    led = other.told(await ledger.reserve(other.asks("w3")))
    assert (led.worker_id, led.fencing_token, led.state) == ("w2", 2, JobState.RUNNING)


async def test_an_ask_whose_answer_nobody_waited_for_is_moved_on_from(ledger: Asked) -> None:
    """A reader left while its flight was placed. Another goes on, under another token: what
    undoes the first ask must not end the second."""
    asker = Asker()
    abandoned = asker.asks("w1")
    first = await ledger.reserve(abandoned)
    second = asker.told(await ledger.reserve(asker.asks("w1")))
    assert (second.fencing_token, second.state) == (2, JobState.NEW)
    again = await ledger.reserve(abandoned)
    assert (again.fencing_token, again.state) == (2, JobState.RUNNING)
    assert not await ledger.settle(settle(first, Outcome.CANCELLED))
    assert await ledger.settle(settle(second))


async def test_who_was_led_and_never_heard_of_it_is_led_again(ledger: Asked) -> None:
    """It holds the claim, but it knows nothing of the run that it would end."""
    first, second = Asker(), Asker()
    given = first.told(await ledger.reserve(first.asks("w1")))
    await ledger.reserve(second.asks("w2"))
    led = second.told(await ledger.reserve(second.asks("w2")))
    assert (led.job_id, led.fencing_token, led.state) == (given.job_id, 1, JobState.RUNNING)
    moved = await ledger.reserve(second.asks("w2"))
    assert (moved.job_id, moved.fencing_token, moved.state) == (given.job_id, 2, JobState.NEW)
    assert await ledger.leases() == 1


async def test_an_ask_that_never_arrived_is_no_hindrance(ledger: Asked) -> None:
    asker = Asker()
    asker.told(await ledger.reserve(asker.asks("w1")))
    asker.asks("w2")  # lost on the way
    known = asker.told(await ledger.reserve(asker.asks("w2")))
    assert (known.worker_id, known.fencing_token, known.state) == ("w1", 1, JobState.RUNNING)
    moved = await ledger.reserve(asker.asks("w2"))
    assert (moved.worker_id, moved.fencing_token, moved.state) == ("w2", 2, JobState.NEW)


async def test_one_that_comes_too_late_is_led_and_told(ledger: Asked) -> None:
    """The first ask of the dead, later than all of its follower's: it may take the claim, which
    only costs the other an ask."""
    dead, alive = Asker(), Asker()
    late = dead.asks("w2")
    given = alive.told(await ledger.reserve(alive.asks("w1")))
    assert (await ledger.reserve(late)).state is JobState.RUNNING
    back = alive.told(await ledger.reserve(alive.asks("w3")))
    assert (back.fencing_token, back.state) == (given.fencing_token, JobState.RUNNING)
    moved = alive.told(await ledger.reserve(alive.asks("w3")))
    assert (moved.worker_id, moved.fencing_token, moved.state) == ("w3", 2, JobState.NEW)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
async def test_what_ended_badly_is_given_to_whoever_asks(ledger: Asked, outcome: Outcome) -> None:
    asker, other = Asker(), Asker()
    given = asker.told(await ledger.reserve(asker.asks("w1")))
    assert await ledger.settle(settle(given, outcome))
    again = other.asks("w2")
    anew = other.told(await ledger.reserve(again))
    assert (anew.job_id, anew.fencing_token, anew.state) == (given.job_id, 2, JobState.NEW)
    assert await ledger.reserve(again) == anew
    assert (await ledger.reserve(asker.asks("w1"))).state is JobState.RUNNING
    assert await ledger.settle(settle(anew))
    assert await ledger.bills() == [(3, 5)]


async def test_what_was_read_to_its_end_is_billed_whoever_has_the_job_now(ledger: Asked) -> None:
    """Two gateways have it, and one moves it while the other's client reads on."""
    one, other = Asker(), Asker()
    given = one.told(await ledger.reserve(one.asks("w1")))
    other.told(await ledger.reserve(other.asks("w2")))
    moved = other.told(await ledger.reserve(other.asks("w2")))
    assert (moved.fencing_token, moved.state) == (2, JobState.NEW)
    assert not await ledger.settle(settle(given))
    delivered = msgspec.structs.replace(settle(given), delivered=True)
    assert await ledger.settle(delivered)
    assert not await ledger.settle(delivered)
    assert not await ledger.settle(msgspec.structs.replace(settle(moved), delivered=True))
    assert await ledger.bills() == [(3, 5)]
    assert await ledger.leases() == 0
    assert (await ledger.reserve(other.asks("w3"))).state is JobState.COMPLETED


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
async def test_what_was_read_to_its_end_is_billed_though_somebody_gave_up(
    ledger: Asked, outcome: Outcome
) -> None:
    """Of two who read one run, one had no attempts left, or went away."""
    asker = Asker()
    given = asker.told(await ledger.reserve(asker.asks("w1")))
    assert await ledger.settle(settle(given, outcome))
    broken_off = msgspec.structs.replace(settle(given, outcome), delivered=True)
    assert not await ledger.settle(broken_off), "only a complete answer can be delivered"
    assert not await ledger.settle(settle(given))
    future = msgspec.structs.replace(settle(given), delivered=True, fencing_token=9)
    assert not await ledger.settle(future)
    assert await ledger.settle(msgspec.structs.replace(settle(given), delivered=True))
    assert await ledger.bills() == [(3, 5)]
    assert (await ledger.reserve(Asker().asks("w3"))).state is JobState.COMPLETED


async def test_a_completed_job_is_given_to_nobody(ledger: Asked) -> None:
    asker, other = Asker(), Asker()
    given = asker.told(await ledger.reserve(asker.asks("w1")))
    assert await ledger.settle(settle(given))
    assert not await ledger.settle(settle(given))
    for ask in (asker.asks("w2"), other.asks("w3")):
        known = await ledger.reserve(ask)
        assert (known.job_id, known.worker_id, known.state) == (
            given.job_id,
            "w1",
            JobState.COMPLETED,
        )
    assert await ledger.leases() == 0


async def test_a_completed_answer_that_is_lost_is_given_anew_and_billed_once(
    ledger: Asked,
) -> None:
    """Its worker and its gateway died before the client had all of it; the client still waits."""
    first, second, third = Asker(), Asker(), Asker()
    given = first.told(await ledger.reserve(first.asks("w1")))
    assert await ledger.settle(settle(given))
    known = second.told(await ledger.reserve(second.asks("w2")))
    assert (known.fencing_token, known.state) == (1, JobState.COMPLETED)
    other = await ledger.reserve(second.asks("w2", lost_fencing_token=7))
    assert other.state is JobState.COMPLETED, "another answer than the one that was lost"
    assert (await ledger.reserve(third.asks("", lost_fencing_token=1))).state is JobState.COMPLETED
    ask = second.asks("w2", lost_fencing_token=known.fencing_token)
    anew = second.told(await ledger.reserve(ask))
    assert (anew.job_id, anew.worker_id, anew.fencing_token, anew.state) == (
        given.job_id,
        "w2",
        2,
        JobState.NEW,
    )
    assert await ledger.reserve(ask) == anew
    late = await ledger.reserve(third.asks("w3", lost_fencing_token=1))
    assert (late.fencing_token, late.state) == (2, JobState.RUNNING)
    assert not await ledger.settle(settle(given))
    part = Usage(prompt_tokens=3, completion_tokens=1)
    broken_off = msgspec.structs.replace(settle(anew, Outcome.CANCELLED), usage=part)
    assert await ledger.settle(broken_off)
    assert await ledger.bills() == [(3, 5)], "it was answered in full once"
    anew = second.told(await ledger.reserve(second.asks("w2")))
    assert await ledger.settle(settle(anew))
    assert await ledger.bills() == [(3, 5)]
    assert (
        await ledger.reserve(third.asks("w3", lost_fencing_token=1))
    ).state is JobState.COMPLETED
    assert await ledger.leases() == 0


@pytest.mark.parametrize("held", [0, 1])
async def test_another_body_is_a_conflict_whatever_it_claims(ledger: Asked, held: int) -> None:
    asker = Asker()
    given = asker.told(await ledger.reserve(asker.asks("w1")))
    with pytest.raises(KeyReused):
        await ledger.reserve(
            asker.asks(
                "w2", fingerprint=b"other", held_claim_token=given.claim_token if held else 0
            )
        )


async def test_an_ask_without_a_claim_goes_by_attempts(ledger: Asked) -> None:
    asker = Asker()
    first = asker.asks("w1", claim_token=0, held_claim_token=0)
    second = asker.asks("w2", claim_token=0, held_claim_token=0)
    given = await ledger.reserve(first)
    assert await ledger.reserve(first) == given
    moved = await ledger.reserve(second)
    assert (moved.worker_id, moved.fencing_token, moved.state) == ("w2", 2, JobState.NEW)
    assert await ledger.reserve(second) == moved
    assert (await ledger.reserve(first)).state is JobState.RUNNING
    newer = Asker()
    led = newer.told(await ledger.reserve(newer.asks("w3")))
    assert (led.fencing_token, led.state) == (2, JobState.RUNNING)
    assert (await ledger.reserve(newer.asks("w3"))).fencing_token == 3


async def test_who_names_no_worker_reserves_nothing(ledger: Asked) -> None:
    """It only wants to be led to what its retry token stands for, and needs no free worker."""
    first, second, third = Asker(), Asker(), Asker()
    look = second.asks("", worker_address="")
    free = await ledger.reserve(look)
    assert (free.job_id, free.fencing_token, free.state) == (look.job.job_id, 0, JobState.FREE)
    assert await ledger.leases() == 0
    given = first.told(await ledger.reserve(first.asks("w1")))
    led = second.told(await ledger.reserve(look))
    assert (led.job_id, led.worker_id, led.fencing_token, led.state) == (
        given.job_id,
        "w1",
        1,
        JobState.RUNNING,
    )
    moved = second.told(await ledger.reserve(second.asks("w2")))
    assert (moved.worker_id, moved.fencing_token) == ("w2", 2)
    assert (await ledger.reserve(first.asks("", worker_address=""))).fencing_token == 0, (
        "its own job"
    )
    assert await ledger.settle(settle(moved, Outcome.CANCELLED))
    assert (await ledger.reserve(third.asks("", worker_address=""))).fencing_token == 0
    assert await ledger.leases() == 0
    anew = third.told(await ledger.reserve(third.asks("w3")))
    assert await ledger.settle(settle(anew))
    assert (await ledger.reserve(Asker().asks("", worker_address=""))).state is JobState.COMPLETED


async def test_those_who_look_and_those_who_reserve_share_a_round(ledger: Asked) -> None:
    pairs = [(Asker(f"t{n}"), Asker(f"t{n}")) for n in range(6)]
    for one, _ in pairs[:3]:
        one.told(await ledger.reserve(one.asks("w1")))
    asks = [other.asks("" if n % 2 else "w2") for n, (_, other) in enumerate(pairs)]
    answers = await asyncio.gather(*map(ledger.reserve, asks))
    assert [answer.state for answer in answers] == [
        *[JobState.RUNNING] * 3,
        *(JobState.FREE, JobState.NEW, JobState.FREE),
    ]
    assert [answer.fencing_token for answer in answers] == [1, 1, 1, 0, 1, 0]
