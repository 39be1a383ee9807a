"""Finished answers in a real database: written with the bill or not at all, within their bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from actors.contracts import (
    AnswerFetched,
    Billed,
    FetchAnswer,
    JobState,
    Outcome,
    Settle,
    Settled,
    Usage,
)
from actors.core.answer_options import AnswerOptions
from actors.core.ids import job_id
from actors.stores import waiting_answers
from actors.stores.answer_store import AnswerStore
from actors.stores.jobs import Desk
from actors.stores.ledger import Ledger, LedgerOptions
from actors.stores.shared_desk import SharedDesk
from actors.stores.upkeep import Upkeep
from supervision.errors import BadRequest, Unavailable
from tests.support.messages import reserve
from tests.support.waiting import NEVER_S, PATIENCE_S

OPTIONS = LedgerOptions(
    reserve_patience_s=PATIENCE_S,
    settle_patience_s=PATIENCE_S,
    statement_s=PATIENCE_S,
    prune_s=NEVER_S,
    prune_batch=2,
    answers=AnswerOptions(answer_bytes=1000, tenant_bytes=3000),
)
USAGE = Usage(prompt_tokens=3, completion_tokens=5)


@pytest_asyncio.fixture
async def ledger(dsn: str) -> AsyncIterator[Ledger]:
    async with Ledger(dsn, OPTIONS) as opened:
        yield opened


@pytest_asyncio.fixture
async def store(dsn: str) -> AsyncIterator[AnswerStore]:
    made = AnswerStore(dsn)
    yield made
    made.close()


def settle(job: str, answer: bytes = b"said", token: int = 1, **changes: Any) -> Settle:
    values: dict[str, Any] = {
        "job_id": job,
        "fencing_token": token,
        "outcome": Outcome.COMPLETED,
        "usage": USAGE,
        "answer": answer,
    }
    return Settle(**(values | changes))


async def answered(ledger: Ledger, token: str, answer: bytes = b"said", **job: Any) -> str:
    """A completed job."""
    given = (await ledger.reserve(reserve(token, **job))).assignment
    assert (await ledger.settle(settle(given.job_id, answer))).first
    return given.job_id


async def kept(connection: asyncpg.Connection) -> dict[str, bytes]:
    query = "SELECT j.retry_token, a.bytes FROM answers a JOIN jobs j ON j.id = a.job_id"
    return dict(map(tuple, await connection.fetch(query)))


async def pruned(dsn: str, options: LedgerOptions = OPTIONS) -> int:
    async def open_desk() -> Desk:
        return await Desk.open(dsn, lease_s=60.0, timeout_s=PATIENCE_S)

    desk = await open_desk()
    try:
        upkeep = Upkeep(options, SharedDesk(open_desk), open_desk, lambda: None)
        return (await upkeep.prune_once(desk))["answers"]
    finally:
        desk.close()


async def test_an_answer_is_written_with_its_bill(
    ledger: Ledger, store: AnswerStore, connection: asyncpg.Connection
) -> None:
    job = await answered(ledger, "t", endpoint="chat")
    row = await connection.fetchrow("SELECT *, expires_at - kept_at AS life FROM answers")
    assert (str(row["job_id"]), row["tenant_id"], row["endpoint"]) == (job, "acme", "chat")
    assert (row["bytes"], row["size"], row["life"].days) == (b"said", 4, 1)
    assert await store.fetch(FetchAnswer(job_id=job, tenant_id="acme")) == AnswerFetched(b"said")
    assert not (await ledger.settle(settle(job, b"again"))).first
    assert await kept(connection) == {"t": b"said"}


async def test_it_is_its_tenants_alone(ledger: Ledger, store: AnswerStore) -> None:
    job = await answered(ledger, "t")
    assert await store.fetch(FetchAnswer(job_id=job, tenant_id="bolt")) == AnswerFetched()
    assert await store.fetch(FetchAnswer(job_id=job_id(), tenant_id="acme")) == AnswerFetched()
    with pytest.raises(BadRequest, match="no job id"):
        await store.fetch(FetchAnswer(job_id="x", tenant_id="acme"))


async def test_one_that_is_gone_leaves_its_bill(
    ledger: Ledger, store: AnswerStore, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO prices (model, currency, prompt, cached, reasoning, output, request) "
        "VALUES ('*', 'EUR', 1000000, 0, 0, 2000000, 10)"
    )
    given = (await ledger.reserve(reserve("t"))).assignment
    await connection.execute("UPDATE jobs SET price = (SELECT max(version) FROM prices)")
    await ledger.settle(settle(given.job_id))
    await connection.execute("UPDATE answers SET expires_at = now()")
    found = await store.fetch(FetchAnswer(job_id=given.job_id, tenant_id="acme"))
    bill = Billed(
        job_id=given.job_id,
        entries=1,
        prompt_tokens=3,
        output_tokens=5,
        micros=3 + 10 + 10,
        currency="EUR",
    )
    assert found == AnswerFetched(billed=bill)


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.FAILED])
async def test_nothing_is_kept_of_what_is_no_answer(
    ledger: Ledger, connection: asyncpg.Connection, outcome: Outcome
) -> None:
    given = (await ledger.reserve(reserve("t"))).assignment
    await ledger.settle(settle(given.job_id, outcome=outcome))
    assert await kept(connection) == {}


async def test_one_under_an_old_fencing_token_is_not_kept(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    given = (await ledger.reserve(reserve("t"))).assignment
    assert not (await ledger.settle(settle(given.job_id, b"zombie", token=0))).first
    await ledger.settle(settle(given.job_id, b"said"))
    assert await kept(connection) == {"t": b"said"}


async def test_one_that_was_delivered_is_kept_after_a_bad_end(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """By the other statement, which amends."""
    given = (await ledger.reserve(reserve("t"))).assignment
    await ledger.settle(settle(given.job_id, b"", outcome=Outcome.CANCELLED))
    assert (await ledger.settle(settle(given.job_id, b"said", delivered=True))).first
    assert await kept(connection) == {"t": b"said"}
    again = (await ledger.reserve(reserve("t", lost_fencing_token=1))).assignment
    assert (again.state, again.fencing_token) == (JobState.NEW, 2)
    await ledger.settle(settle(given.job_id, b"said anew", token=2))
    assert await kept(connection) == {"t": b"said anew"}


async def test_one_that_is_too_large_is_not_kept_and_is_billed(
    ledger: Ledger, store: AnswerStore, connection: asyncpg.Connection
) -> None:
    job = await answered(ledger, "t", b"x" * 1001)
    await answered(ledger, "u", b"x" * 1000)
    assert set(await kept(connection)) == {"u"}
    found = await store.fetch(FetchAnswer(job_id=job, tenant_id="acme"))
    assert found.billed is not None and found.billed.output_tokens == 5


async def test_none_is_kept_where_the_configuration_says_so(
    dsn: str, connection: asyncpg.Connection
) -> None:
    options = msgspec.structs.replace(OPTIONS, answers=AnswerOptions(keep_s=0.0))
    async with Ledger(dsn, options) as ledger:
        await answered(ledger, "t")
    assert await kept(connection) == {}


async def test_what_waits_is_bounded_in_bytes(
    ledger: Ledger, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound settles go on without their answers."""
    monkeypatch.setattr(waiting_answers, "WAITING_BYTES", 2500)
    jobs = [(await ledger.reserve(reserve(f"t{n}"))).assignment.job_id for n in range(4)]
    written: list[Settled] = await asyncio.gather(
        *(ledger.settle(settle(job, b"x" * 1000)) for job in jobs)
    )
    assert all(each.first for each in written)
    assert set(await kept(connection)) == {"t0", "t1"}
    await answered(ledger, "later", b"x" * 1000)
    assert "later" in await kept(connection), "their room is free again"
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 5


async def test_what_has_expired_goes(
    dsn: str, ledger: Ledger, connection: asyncpg.Connection
) -> None:
    for n in range(5):
        await answered(ledger, f"old{n}")
    await connection.execute("UPDATE answers SET expires_at = now()")
    await answered(ledger, "young")
    assert await pruned(dsn) == 5
    assert set(await kept(connection)) == {"young"}
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 6, "their keys are known"


async def test_of_a_tenant_the_oldest_go(
    dsn: str, ledger: Ledger, connection: asyncpg.Connection
) -> None:
    for n in range(8):
        await answered(ledger, f"t{n}", b"x" * 600)
    await answered(ledger, "alone", b"x" * 900, tenant_id="bolt")
    assert await pruned(dsn) == 3, "3,000 bytes hold five of 600"
    assert set(await kept(connection)) == {f"t{n}" for n in range(3, 8)} | {"alone"}
    assert await pruned(dsn) == 0


async def test_a_connection_that_was_ended_meanwhile_is_made_anew(
    ledger: Ledger, store: AnswerStore, connection: asyncpg.Connection
) -> None:
    ask = FetchAnswer(job_id=await answered(ledger, "t"), tenant_id="acme")
    await store.fetch(ask)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'SELECT bytes FROM answers%'"
    )
    assert (await store.fetch(ask)).answer == b"said"


async def test_a_database_that_is_away_is_said_to_be() -> None:
    store = AnswerStore("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        await store.fetch(FetchAnswer(job_id=job_id(), tenant_id="acme"))


async def test_many_at_once_have_one_connection(ledger: Ledger, store: AnswerStore) -> None:
    jobs = [await answered(ledger, f"t{n}", b"%d" % n) for n in range(20)]
    found = await asyncio.gather(
        *(store.fetch(FetchAnswer(job_id=job, tenant_id="acme")) for job in jobs)
    )
    assert [each.answer for each in found] == [b"%d" % n for n in range(20)]
