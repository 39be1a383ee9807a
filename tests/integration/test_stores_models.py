"""The catalog and its history on a real server: kept, told, locked, migrated."""

from __future__ import annotations

import asyncio

import asyncpg
import msgspec
import pytest

from actors.contracts import ModelCard, ModelPolicy, MoveModel, Stage
from actors.contracts.catalog import Slo, Warming
from actors.contracts.policies import RateTerms, RetryTerms
from actors.core.lifecycle import VersionSet
from actors.core.version import Version
from actors.errors import ModelConflict
from actors.stores import models
from actors.stores.database import Database, connect, migrate, migrations
from supervision.errors import Unavailable
from tests.support.waiting import PATIENCE_S

CARD = ModelCard(
    name="org/m",
    version="1",
    engine="transformers",
    source="artifact:sha256:" + "0" * 64,
    context=99,
    dtype="bfloat16",
    created_s=77,
    adapter="package:a",
    gpu_class="h100",
    memory_mib=7,
    policy=ModelPolicy(
        tenants=("acme", "globex"), regions=("eu",), max_tokens=5, concurrency=6, slo=Slo.BATCH,
        canary_share=0.25, warm=Warming.ALWAYS, order=("rate", "retry"), rate=RateTerms(per_s=5.0),
        retry=RetryTerms(attempts=2, pause_s=0.5),
    ),
    special_tokens_in_text=True,
)  # fmt: skip


async def make(database: Database, verb: str, ref: str, **more: object) -> None:
    """One move, as the registry makes it."""

    async def work(connection: asyncpg.Connection) -> None:
        await models.lock(connection)
        shelf = VersionSet(await models.listed(connection, [ref]), listed=[ref, "a@2"])
        msg = MoveModel(ref=ref, verb=verb, **more)  # type: ignore[arg-type]
        await models.write(connection, shelf.move(msg, "tester", 1000.0))

    await database.transact(work)


async def test_a_version_is_kept_with_all_that_it_is_and_told(dsn: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    listener = await connect(dsn)
    await listener.add_listener("tether_models", lambda *a: told.put_nowait(a[2]))
    async with Database(dsn) as database:
        steps = VersionSet([]).register(CARD, "alice", 1_800_000_000.25)
        await models.write(database, steps)
        assert await asyncio.wait_for(told.get(), PATIENCE_S) == "tether_models"
        [found] = await models.listed(database)
        assert found == steps[0].version
        assert (found.card.stage, found.card.stage_s) == (Stage.REGISTERED, 1_800_000_000.25)
        assert found.card.created_s == 1_800_000_000
        assert await models.changes(database, "") == (steps[0].line,)
        assert await models.revision(database) == 1
        # What is written again keeps its age.
        entered = VersionSet([found]).enter(
            [msgspec.structs.replace(CARD, context=3)], 1_900_000_000.0
        )
        await models.write(database, entered)
        [again] = await models.listed(database)
        assert (again.card.context, again.card.created_s) == (3, 1_800_000_000)
        assert again.origin == "config"
    await listener.close()


async def test_what_is_shown(dsn: str) -> None:
    cards = [
        ModelCard(name=name, version=version, engine="echo")
        for name, version in (("b", "1"), ("a", "1"), ("a", "2"))
    ]
    async with Database(dsn) as database:
        await models.write(database, VersionSet([]).enter(cards, 500.0))
        await make(database, "retire", "a@1")

        async def refs(ref: str) -> list[str]:
            return [v.card.ref for v in await models.shown(database, ref)]

        assert await refs("") == ["a@2", "b@1", "a@1"]
        assert await refs("a") == ["a@2", "a@1"]
        assert await refs("a@1") == ["a@1"]
        assert await refs("nothing") == []
        assert [v.card.ref for v in await models.listed(database)] == ["a@2", "b@1"]
        assert [v.card.ref for v in await models.listed(database, ["a@1"])] == ["a@1", "a@2", "b@1"]
        assert [line.what for line in await models.changes(database, "a")] == [
            "registered", "registered", "retired",
        ]  # fmt: skip
        newest = await models.changes(database, "", most=1)
        assert [line.ref for line in newest] == ["a@1"]
        assert await models.changes(database, "b", since=1) == ()


async def test_two_who_change_the_same_name_come_one_after_the_other(dsn: str) -> None:
    cards = [ModelCard(name="m", version=str(n), engine="echo") for n in range(8)]
    async with Database(dsn, size=8) as database:
        for card in cards:
            await models.write(database, VersionSet([]).register(card, "x", 1.0))
        done = await asyncio.gather(
            *(make(database, "promote", card.ref, to="canary") for card in cards),
            return_exceptions=True,
        )
        assert sum(answer is None for answer in done) == 1
        assert all(answer is None or isinstance(answer, ModelConflict) for answer in done)
        with pytest.raises(asyncpg.UniqueViolationError):  # also for who doesn't ask the registry
            await database.execute("UPDATE models SET stage = 'canary'")


async def test_what_fails_leaves_nothing_of_a_change(dsn: str) -> None:
    async with Database(dsn) as database:
        steps = VersionSet([]).register(CARD, "x", 1.0)
        bad = msgspec.structs.replace(steps[0].line, what="burnt")

        async def work(connection: asyncpg.Connection) -> None:
            await models.write(connection, [steps[0]._replace(line=bad)])

        with pytest.raises(asyncpg.CheckViolationError):
            await database.transact(work)
        assert await models.listed(database) == ()
        assert await database.transact(models.revision) == 0
    with pytest.raises(Unavailable, match="not open"):
        await database.transact(models.revision)


async def test_a_policy_that_nobody_can_read_is_offered_to_nobody(dsn: str) -> None:
    async with Database(dsn) as database:
        await models.write(
            database,
            VersionSet([]).enter([CARD, ModelCard(name="m", version="2", engine="echo")], 9.0),
        )
        for policy in ("[]", '{"canary_share": 2}', '{"tenants": "all"}', '{"slo": "best"}'):
            await database.execute(
                "UPDATE models SET policy = $1::text::jsonb WHERE name = 'org/m'", policy
            )
            assert [v.card.ref for v in await models.listed(database)] == ["m@2"]
        await database.execute("UPDATE models SET policy = '{\"later\": 1}'")  # of a newer release
        assert [v.card.policy for v in await models.listed(database)] == [ModelPolicy()] * 2


async def test_an_old_database_s_models_are_stable_and_as_old_as_they_were(empty_dsn: str) -> None:
    connection = await connect(empty_dsn)
    try:
        steps = migrations()
        before = steps[: next(at for at, step in enumerate(steps) if step.name == "registry")]
        await migrate(connection, before)
        await connection.execute(
            "INSERT INTO models (name, version, engine, context, created_at) VALUES "
            "('m', '2', 'echo', 16, to_timestamp(200)), ('m', '10', 'echo', 32, to_timestamp(100))"
        )
        assert await migrate(connection) == len(steps) - len(before)
        found = await models.listed(connection)
        assert found == tuple(
            Version(
                ModelCard(
                    name="m", version=version, engine="echo", context=context, created_s=at,
                    stage=Stage.STABLE, stage_s=at,
                ),
                "config",
            )
            for version, context, at in (("10", 32, 100), ("2", 16, 200))
        )  # fmt: skip
        lines = await models.changes(connection, "m")
        assert [(c.ref, c.what, c.after, c.at_s) for c in lines] == [
            ("m@10", "registered", "stable", 100), ("m@2", "registered", "stable", 200),
        ]  # fmt: skip
    finally:
        await connection.close()
