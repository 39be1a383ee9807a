"""The ledger on a real server: once per retry token, once per fencing token, whatever is
repeated, swept, raced or killed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from actors.contracts import Assignment, JobState, Outcome, Reserved, Settle, Usage
from actors.core.ids import job_id
from actors.errors import KeyReused
from actors.stores.database import connect
from actors.stores.embedded import Embedded
from actors.stores.ledger import Ledger, LedgerOptions
from actors.stores.queries import sql
from supervision.errors import BadRequest, Conflict, Draining, Overloaded, TetherError, Unavailable
from tests.support.messages import changed, reserve
from tests.support.open_jobs import Open, still_open
from tests.support.waiting import NEVER_S, PATIENCE_S

PATIENT = LedgerOptions(
    reserve_patience_s=PATIENCE_S, settle_patience_s=PATIENCE_S, statement_s=PATIENCE_S
)
USAGE = Usage(prompt_tokens=3, completion_tokens=5)


def settle(job: str, token: int = 1, outcome: Outcome = Outcome.COMPLETED) -> Settle:
    return Settle(job_id=job, fencing_token=token, outcome=outcome, usage=USAGE, finish="stop")


@pytest_asyncio.fixture
async def ledger(dsn: str) -> AsyncIterator[Ledger]:
    async with Ledger(dsn, PATIENT) as opened:
        yield opened


async def ledger_rows(connection: asyncpg.Connection) -> list[tuple[str, int, int]]:
    """The bill of each job: its id, prompt and output tokens."""
    rows = await connection.fetch(
        "SELECT job_id::text, sum(prompt_tokens), sum(output_tokens) FROM ledger "
        "GROUP BY job_id ORDER BY job_id"
    )
    return [tuple(row) for row in rows]


#: Conditions and counts for `pg_stat_activity`.
OTHERS = (
    "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
BLOCKED = (
    "SELECT count(*) FROM pg_stat_activity "
    f"WHERE {OTHERS} AND state = 'active' AND wait_event_type = 'Lock'"
)


async def until(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Wait for what only a query can tell."""
    async with asyncio.timeout(PATIENCE_S):
        while await ask() != wanted:  # noqa: ASYNC110 (no event crosses from the server)
            await asyncio.sleep(0.01)


async def insist(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask again where a ledger of little patience has none left."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await ask()
            except Unavailable:
                continue
            return


async def running(connection: asyncpg.Connection) -> int:
    return (await still_open(connection)).running


async def test_a_job_is_reserved_and_settled_in_full(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    asked = reserve()
    given = await ledger.reserve(asked)
    assert given.assignment == Assignment(
        job_id=asked.job.job_id, worker_id="w1", worker_address="n1/w1/1", fencing_token=1
    )
    lease = await connection.fetchrow("SELECT *, expires_at - now() AS left FROM leases")
    assert (str(lease["job_id"]), lease["worker_id"], lease["fence"]) == (asked.job.job_id, "w1", 1)
    assert 2 < lease["left"].total_seconds() <= 12
    assert (await ledger.settle(settle(asked.job.job_id))).first
    assert not (await ledger.settle(settle(asked.job.job_id))).first
    assert await ledger_rows(connection) == [(asked.job.job_id, 3, 5)]
    assert await still_open(connection) == Open(running=0, leases=0, overdue=0)
    (job,) = await connection.fetch("SELECT * FROM jobs")
    assert (job["state"], job["outcome"], job["finish"]) == ("settled", "completed", "stop")
    assert (job["prompt_tokens"], job["completion_tokens"], job["attempt"]) == (3, 5, 1)
    assert job["settled_at"] is not None
    billed = await connection.fetchrow(sql("usage_of_tenant"), "acme", job["created_at"])
    assert tuple(billed) == (1, 3, 5)


async def test_the_same_reserve_again_finds_its_own_job(ledger: Ledger) -> None:
    """So a reserve whose answer was lost can be sent again, and again by another scheduler."""
    asked = reserve()
    given = await ledger.reserve(asked)
    assert await ledger.reserve(asked) == given
    elsewhere = changed(asked, worker_id="w2", worker_address="n1/w2/1")
    assert await ledger.reserve(elsewhere) == given


async def test_another_job_with_the_token_of_a_running_one_is_led_to_it(ledger: Ledger) -> None:
    given = await ledger.reserve(reserve())
    known = await ledger.reserve(reserve(worker_id="w2"))
    led = msgspec.structs.replace(given.assignment, state=JobState.RUNNING)
    assert known == Reserved(assignment=led)
    other = await ledger.reserve(reserve(tenant_id="other"))
    assert other.assignment.state is JobState.NEW


async def test_a_completed_job_is_never_run_again(ledger: Ledger) -> None:
    asked = reserve()
    await ledger.reserve(asked)
    await ledger.settle(settle(asked.job.job_id))
    for again in (reserve(), asked, changed(asked, attempt=2)):
        known = (await ledger.reserve(again)).assignment
        assert (known.job_id, known.state) == (asked.job.job_id, JobState.COMPLETED)
        assert known.worker_address == "n1/w1/1"


async def test_the_token_of_another_body_is_a_conflict(ledger: Ledger) -> None:
    asked = reserve()
    await ledger.reserve(asked)
    other = reserve(fingerprint=b"other body")
    with pytest.raises(KeyReused, match="Idempotency-Key was used for another request"):
        await ledger.reserve(other)
    await ledger.settle(settle(asked.job.job_id, outcome=Outcome.FAILED))
    with pytest.raises(KeyReused):
        await ledger.reserve(other)
    elsewhere = await ledger.reserve(changed(other, endpoint="embeddings"))
    assert elsewhere.assignment.state is JobState.NEW, "at another endpoint it is another one"


@pytest.mark.parametrize(
    ("outcome", "billed"), [(Outcome.FAILED, 0), (Outcome.CANCELLED, 1), (Outcome.EXPIRED, 0)]
)
async def test_what_ended_badly_may_be_run_again(
    ledger: Ledger, connection: asyncpg.Connection, outcome: Outcome, billed: int
) -> None:
    first = reserve()
    await ledger.reserve(first)
    assert (await ledger.settle(settle(first.job.job_id, outcome=outcome))).first
    assert len(await ledger_rows(connection)) == billed
    given = (await ledger.reserve(reserve(worker_id="w2"))).assignment
    assert given.job_id == first.job.job_id, "a job never changes its id"
    assert (given.state, given.fencing_token) == (JobState.NEW, 2)
    assert not (await ledger.settle(settle(given.job_id))).first
    assert (await ledger.settle(settle(given.job_id, token=2))).first
    # One retry token is one bill, and its last usage counts.
    assert await ledger_rows(connection) == [(given.job_id, 3, 5)]
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_an_attempt_moves_the_lease_and_fences_the_worker_off(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    asked = reserve()
    await ledger.reserve(asked)
    second = changed(asked, attempt=2, worker_id="w2", worker_address="n2/w2/1")
    moved = await ledger.reserve(second)
    there = moved.assignment
    assert (there.worker_address, there.fencing_token) == ("n2/w2/1", 2)
    assert there.state is JobState.NEW
    assert await ledger.reserve(second) == moved  # its answer was lost
    # a message of the first attempt, late
    late = (await ledger.reserve(asked)).assignment
    assert (late.worker_id, late.state) == ("w2", JobState.RUNNING)
    assert not (await ledger.settle(settle(asked.job.job_id, token=1))).first
    assert await ledger_rows(connection) == []
    assert (await ledger.settle(settle(asked.job.job_id, token=2))).first
    assert await ledger_rows(connection) == [(asked.job.job_id, 3, 5)]


async def test_a_cancelled_job_taken_up_again_is_billed_once_in_full(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """Its worker lost sight of the gateway and settled; the gateway goes on elsewhere."""
    asked = reserve()
    await ledger.reserve(asked)
    await ledger.settle(settle(asked.job.job_id, outcome=Outcome.CANCELLED))
    again = await ledger.reserve(changed(asked, attempt=2, worker_id="w2"))
    assert again.assignment.fencing_token == 2
    whole = msgspec.structs.replace(
        settle(asked.job.job_id, token=2), usage=Usage(prompt_tokens=3, completion_tokens=50)
    )
    assert (await ledger.settle(whole)).first
    assert await ledger_rows(connection) == [(asked.job.job_id, 3, 50)]
    rows = await connection.fetch(
        "SELECT number, kind, attempt, output_tokens FROM ledger ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(1, "charge", 1, 5), (2, "correction", 2, 45)]


async def test_a_retry_that_meets_the_settle_of_its_cancelled_job_is_billed_once(
    ledger: Ledger, dsn: str, connection: asyncpg.Connection
) -> None:
    """The reserve begins before the cancellation is committed, and so does not see its row."""
    first, second = reserve(), reserve(worker_id="w2")
    await ledger.reserve(first)
    settler = await connect(dsn)
    async with settler.transaction():
        columns = [[] for _ in range(12)]
        await settler.fetchrow(
            sql("settle_and_reserve"), *columns, 60.0, [first.job.job_id], [1], ["cancelled"], [3],
            [0], [0], [5], [""], [""], [True], [""], [b""], 60.0, 0,
        )  # fmt: skip
        again = asyncio.ensure_future(ledger.reserve(second))
        await until(lambda: connection.fetchval(BLOCKED), 1)
    await settler.close()
    given = (await again).assignment
    assert given.job_id == first.job.job_id
    assert (given.state, given.fencing_token) == (JobState.NEW, 2)
    assert (await ledger.settle(settle(given.job_id, token=2))).first
    assert await ledger_rows(connection) == [(given.job_id, 3, 5)]


@pytest.mark.parametrize("delivered", [False, True])
async def test_another_node_settles_what_is_with_its_workers_alone(
    ledger: Ledger, connection: asyncpg.Connection, delivered: bool
) -> None:
    """It may know the ids and the tokens of others."""
    asked = reserve(worker_address="n1/w1/1")
    await ledger.reserve(asked)
    lie = msgspec.structs.replace(settle(asked.job.job_id), delivered=delivered)
    for node in ("n2", "n", "n1/w1"):
        assert not (await ledger.settle(lie, node)).first
    assert await ledger_rows(connection) == []
    assert await connection.fetchval("SELECT state FROM jobs") == "running"
    assert (await ledger.settle(lie, "n1")).first
    assert await ledger_rows(connection) == [(asked.job.job_id, 3, 5)]


async def test_what_was_delivered_is_settled_from_where_it_ran(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """It has moved on twice since, and under the tokens of now its old nodes settle nothing."""
    asked = reserve(worker_address="n1/w1/1")
    await ledger.reserve(asked)
    for attempt, node in ((2, "n2"), (3, "n3"), (4, "n2"), (5, "n3")):
        moved = changed(asked, attempt=attempt, worker_id=f"w{node}", worker_address=f"{node}/w/1")
        assert (await ledger.reserve(moved)).assignment.fencing_token == attempt
    left = await connection.fetch("SELECT number, node, ended FROM attempts ORDER BY number")
    assert [tuple(row) for row in left] == [
        (n, node, "moved") for n, node in enumerate(("n1", "n2", "n3", "n2"), 1)
    ]
    now = msgspec.structs.replace(settle(asked.job.job_id, token=5), delivered=True)
    late = msgspec.structs.replace(settle(asked.job.job_id, token=1), delivered=True)
    for node, said in (("n1", now), ("n2", now), ("n4", late), ("n4", now)):
        assert not (await ledger.settle(said, node)).first
    assert (await ledger.settle(late, "n1")).first
    assert await ledger_rows(connection) == [(asked.job.job_id, 3, 5)]


async def test_equal_tokens_at_once_make_one_job(
    ledger: Ledger, dsn: str, connection: asyncpg.Connection
) -> None:
    """In one round, over two rounds, and over two reservation actors."""
    async with Ledger(dsn, PATIENT) as second:
        for n in range(20):
            asked = [reserve(f"t{n}") for _ in range(12)]
            answers = await asyncio.gather(
                *((second if i % 2 else ledger).reserve(m) for i, m in enumerate(asked))
            )
            assert len({a.assignment.job_id for a in answers}) == 1
            states = sorted(a.assignment.state for a in answers)
            assert states == [JobState.NEW] + [JobState.RUNNING] * 11
    assert await connection.fetchval("SELECT count(*) FROM leases") == 20


async def test_equal_settles_at_once_count_once(
    ledger: Ledger, dsn: str, connection: asyncpg.Connection
) -> None:
    async with Ledger(dsn, PATIENT) as second:
        for n in range(20):
            asked = reserve(f"t{n}")
            await ledger.reserve(asked)
            answers = await asyncio.gather(
                *((second if i % 2 else ledger).settle(settle(asked.job.job_id)) for i in range(12))
            )
            assert sum(a.first for a in answers) == 1
    assert len(await ledger_rows(connection)) == 20


async def test_moves_settles_and_sweeps_of_one_job_at_once_agree(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """Whoever wins, there is one outcome, at most one bill, and no lease without a running job."""
    options = LedgerOptions(lease_s=0.05, settle_patience_s=0.01, sweep_s=0.005)
    rng = random.Random(7)
    async with Ledger(dsn, options) as one, Ledger(dsn, options) as two:
        for n in range(40):
            asked = reserve(f"t{n}", deadline_s=0.02)
            await insist(lambda: one.reserve(asked))  # noqa: B023
            work: list[Any] = []
            for attempt in range(2, 5):
                again = changed(asked, attempt=attempt, worker_id=f"w{attempt}")
                work.append(rng.choice((one, two)).reserve(again))
                work.append(
                    rng.choice((one, two)).settle(settle(asked.job.job_id, token=attempt - 1))
                )
            for result in await asyncio.gather(*work, return_exceptions=True):
                assert not isinstance(result, BaseException) or isinstance(result, Unavailable)
        await until(lambda: running(connection), 0)
    assert await still_open(connection) == Open(running=0, leases=0, overdue=0)
    completed = await connection.fetch("SELECT id::text FROM jobs WHERE outcome = 'completed'")
    assert {row["id"] for row in completed} == {row[0] for row in await ledger_rows(connection)}


async def test_a_lease_that_runs_out_is_swept_and_what_comes_after_that_is_billed(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """Nobody renewed it, for they hung; and the answer was given all the same."""
    options = msgspec.structs.replace(PATIENT, lease_s=0.3, sweep_s=0.02, sweep_batch=7)
    async with Ledger(dsn, options) as ledger:
        keeps = reserve("keeps")
        await ledger.reserve(keeps)
        await connection.execute("UPDATE leases SET expires_at = 'infinity'")
        short = [reserve(f"s{n}") for n in range(50)]
        await asyncio.gather(*map(ledger.reserve, short))
        await until(lambda: running(connection), 1)
        assert await still_open(connection) == Open(running=1, leases=1, overdue=0)
        rows = await connection.fetch("SELECT DISTINCT outcome, state FROM jobs WHERE outcome > ''")
        assert [tuple(row) for row in rows] == [("expired", "settled")]
        assert await ledger_rows(connection) == []
        late = settle(short[0].job.job_id)
        assert (await ledger.settle(late)).first
        assert not (await ledger.settle(late)).first
        assert await ledger_rows(connection) == [(short[0].job.job_id, 3, 5)]


async def test_a_job_that_is_being_settled_is_not_swept(
    connection: asyncpg.Connection, dsn: str
) -> None:
    async with Ledger(dsn) as ledger:
        asked = reserve()
        await ledger.reserve(asked)
    await connection.execute("UPDATE leases SET expires_at = now() - interval '1 second'")
    settler = await connect(dsn)
    async with settler.transaction():
        await settler.execute("SELECT FROM jobs FOR UPDATE")
        assert tuple(await connection.fetchrow(sql("sweep"), 10, 0.1))[:3] == (1, 0, 0)
    assert tuple(await connection.fetchrow(sql("sweep"), 10, 3600.0))[:3] == (0, 0, 0)
    assert tuple(await connection.fetchrow(sql("sweep"), 10, 0.1))[:3] == (1, 1, 1)
    await settler.close()


async def test_one_bad_row_fails_alone(ledger: Ledger, connection: asyncpg.Connection) -> None:
    good = [reserve(f"good{n}") for n in range(9)]
    bad = reserve("bad", worker_address="NUL \0 is no text for PostgreSQL")
    mixed = [*good[:4], bad, *good[4:]]
    answers = await asyncio.gather(*map(ledger.reserve, mixed), return_exceptions=True)
    assert isinstance(answers[4], TetherError)
    assert "PostgreSQL refused it" in str(answers[4])
    assert all(isinstance(a, Reserved) for n, a in enumerate(answers) if n != 4)
    assert (await still_open(connection)).leases == 9


async def test_a_job_id_taken_by_another_token_is_a_conflict(ledger: Ledger) -> None:
    first = reserve("one")
    await ledger.reserve(first)
    with pytest.raises(Conflict, match="use new ones"):
        await ledger.reserve(reserve("two", job_id=first.job.job_id))


async def test_malformed_messages_are_refused_at_once(ledger: Ledger) -> None:
    with pytest.raises(BadRequest, match="is no job id"):
        ledger.reserve(reserve(job_id="17"))
    with pytest.raises(BadRequest, match="usage and fencing token"):
        ledger.settle(settle(job_id(), token=-1))
    assert not (await ledger.settle(settle(job_id()))).first  # unknown: nothing to close


async def test_what_waits_is_bounded_and_what_nobody_wants_is_not_sent(
    dsn: str, connection: asyncpg.Connection
) -> None:
    options = msgspec.structs.replace(PATIENT, waiting_max=10, sweep_s=NEVER_S)
    async with Ledger(dsn, options) as ledger:
        lock = await connect(dsn)
        async with lock.transaction():
            await lock.execute("LOCK TABLE jobs")  # both lanes hang on it
            flying = [asyncio.ensure_future(ledger.reserve(reserve("lane0")))]
            await until(lambda: connection.fetchval(BLOCKED), 1)
            flying.append(asyncio.ensure_future(ledger.reserve(reserve("lane1"))))
            await until(lambda: connection.fetchval(BLOCKED), 2)
            waiting = [asyncio.ensure_future(ledger.reserve(reserve(f"w{n}"))) for n in range(10)]
            with pytest.raises(Overloaded, match="10 reserves and settles wait"):
                ledger.reserve(reserve("one too many"))
            for future in waiting[5:]:
                future.cancel()
        await asyncio.gather(*flying, *waiting[:5])
        await lock.close()
    tokens = {row[0] for row in await connection.fetch("SELECT retry_token FROM jobs")}
    assert tokens == {"lane0", "lane1", "w0", "w1", "w2", "w3", "w4"}


async def test_a_statement_that_hangs_is_given_up_and_sent_again(
    dsn: str, connection: asyncpg.Connection
) -> None:
    options = LedgerOptions(statement_s=1.0, reserve_patience_s=1.3)
    async with Ledger(dsn, options) as ledger:
        lock = await connect(dsn)
        async with lock.transaction():
            await lock.execute("LOCK TABLE jobs")
            with pytest.raises(Unavailable, match="doesn't answer"):
                await ledger.reserve(reserve("short of patience"))
            patient = asyncio.ensure_future(ledger.settle(settle(job_id())))
            await asyncio.sleep(1.2)  # no answer comes, and `statement_s` passes meanwhile
        assert not (await patient).first
        await lock.close()


async def test_closing_answers_what_waits_and_refuses_the_rest(
    dsn: str, connection: asyncpg.Connection
) -> None:
    ledger = await Ledger(dsn, PATIENT).open()
    futures = [asyncio.ensure_future(ledger.reserve(reserve(f"t{n}"))) for n in range(500)]
    await ledger.close()
    assert all(f.result().assignment.fencing_token == 1 for f in futures)
    with pytest.raises(Draining):
        ledger.reserve(reserve("late"))
    await ledger.close()
    others = f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}"
    await until(lambda: connection.fetchval(others), 0)  # backends end a moment after their socket
    assert (await still_open(connection)).leases == 500


async def test_an_idle_ledger_holds_no_lock(ledger: Ledger, dsn: str) -> None:
    """Or it would hold up a migration, and vacuum. (A prepared statement does, until the next.)"""
    observer = await connect(dsn)
    held = "SELECT count(*) FROM pg_locks WHERE relation IN ('jobs'::regclass, 'leases'::regclass)"
    await until(lambda: observer.fetchval(held), 0)  # a sweep may be under way
    await observer.close()


async def test_lost_connections_are_made_anew(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    for n in range(5):
        await connection.fetchval(
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OTHERS}"
        )
        asked = reserve(f"t{n}")
        assert (await ledger.reserve(asked)).assignment.state is JobState.NEW
        assert (await ledger.settle(settle(asked.job.job_id))).first
    assert len(await ledger_rows(connection)) == 5


async def test_postgres_killed_under_load_loses_no_settle_and_bills_nothing_twice() -> None:
    """SIGKILL of the server, three times, while 32 clients reserve and settle without a pause."""
    folder = Path(tempfile.mkdtemp(prefix="tether-"))
    server = Embedded(folder / "pg", folder / "s")
    kills, settled, again = 3, [], 0
    over, progress, goal = asyncio.Event(), asyncio.Event(), 300

    async def client(ledger: Ledger, name: int) -> None:
        nonlocal again
        count = 0
        while not over.is_set():
            asked = reserve(f"{name}-{count}")
            count += 1
            given = await ledger.reserve(asked)
            assert given.assignment.state is JobState.NEW
            assert given.assignment.fencing_token == 1
            done = await ledger.settle(settle(asked.job.job_id))
            # Not the first: the commit took effect, its answer was lost, and it was sent again.
            again += not done.first
            settled.append(asked.job.job_id)
            if len(settled) >= goal:
                progress.set()

    async def more() -> None:
        nonlocal goal
        await asyncio.wait_for(progress.wait(), PATIENCE_S)
        goal = len(settled) + 300
        progress.clear()

    try:
        dsn = await server.start()
        patient = LedgerOptions(reserve_patience_s=PATIENCE_S, settle_patience_s=PATIENCE_S)
        async with Ledger(dsn, patient) as ledger:
            clients = [asyncio.create_task(client(ledger, n)) for n in range(32)]
            for _ in range(kills):
                await more()
                pid = server.running()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await server.ended()
                await server.start()
            await more()
            over.set()
            await asyncio.gather(*clients)
        connection = await connect(dsn)
        assert await still_open(connection) == Open(running=0, leases=0, overdue=0)
        rows = await ledger_rows(connection)
        assert [row[0] for row in rows] == sorted(settled)  # each once, and no other
        states = await connection.fetch("SELECT DISTINCT outcome, fence FROM jobs")
        assert [tuple(row) for row in states] == [("completed", 1)]
        await connection.close()
        assert again <= kills * 32
    finally:
        await server.stop()
        shutil.rmtree(folder)


async def test_without_postgres_callers_hear_of_it_when_their_patience_ends() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tether-"))
    server = Embedded(folder / "pg", folder / "s")
    try:
        dsn = await server.start()
        options = LedgerOptions(reserve_patience_s=0.3, settle_patience_s=0.6)
        async with Ledger(dsn, options) as ledger:
            asked = reserve()
            await insist(lambda: ledger.reserve(asked))
            await server.stop()
            loop = asyncio.get_running_loop()
            begin = loop.time()
            refused = await asyncio.gather(
                ledger.reserve(reserve("a")),
                ledger.settle(settle(asked.job.job_id)),
                return_exceptions=True,
            )
            assert all(isinstance(r, Unavailable) for r in refused)
            assert "PostgreSQL doesn't answer" in str(refused[0])
            assert loop.time() - begin >= 0.3
            with pytest.raises(Unavailable, match="can't be reached"):
                await Ledger(dsn).open()
            await server.start()
            await insist(lambda: ledger.settle(settle(asked.job.job_id)))
            connection = await connect(dsn)
            assert len(await ledger_rows(connection)) == 1
            await connection.close()
    finally:
        await server.stop()
        shutil.rmtree(folder)
