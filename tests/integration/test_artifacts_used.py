"""`tether artifacts gc` and the registry: what a version refers to is never collected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.contracts import ModelCard, MoveModel
from actors.contracts.catalog import Move
from actors.core.lifecycle import VersionSet
from actors.stores import models
from actors.stores.database import Database
from tests.support.artifact_shop import Shop, files
from tests.support.waiting import PATIENCE_S
from tether.cli import app, used
from tether.config import load

Collect = Callable[..., str]
NOW = 1_800_000_000.0


class Registry:
    """The store, changed as the registry changes it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with Database(self.dsn) as database:
                return await database.transact(work)

        return asyncio.run(main())

    def register(self, card: ModelCard) -> None:
        self.run(lambda c: models.write(c, VersionSet([]).register(card, "tester", NOW)))

    def retire(self, ref: str, at: float) -> None:
        async def work(connection: Any) -> None:
            shelf = VersionSet(await models.listed(connection))
            move = MoveModel(ref=ref, verb=Move.RETIRE)
            await models.write(connection, shelf.move(move, "tester", at))

        self.run(work)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """With a model at its replicas that has no name."""
    shop = Shop(tmp_path, size=1000)
    asyncio.run(shop.push())
    for number in range(3):
        for name in files(shop.store(number) / "refs"):
            name.unlink()
    return shop


@pytest.fixture
def registry(dsn: str) -> Registry:
    return Registry(dsn)


@pytest.fixture
def collect(
    shop: Shop, dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Collect:
    """Collects twice without a grace in between; what was said, or with `fails` what was told."""
    monkeypatch.setattr("tether.cli.artifacts.logs.configure", lambda _level: None)
    configure(shop, dsn)

    def run(grace: float = 0.0, fails: int = 0) -> str:
        capsys.readouterr()
        for _ in range(2):
            command = ["artifacts", "gc", "--grace-hours", str(grace)]
            code = app._guarded([*command, "--config", str(shop.path / "cluster.toml")])
            assert code == fails
        out, errors = capsys.readouterr()
        return errors if fails else out

    return run


def configure(shop: Shop, dsn: str) -> None:
    (shop.path / "cluster.toml").write_text(
        f"""
        [artifacts]
        replicas = {json.dumps(shop.urls)}
        [stores]
        postgres = {json.dumps(dsn)}
        [[models]]
        name = "echo"
        engine = "echo"
        [[workers]]
        id = "w"
        models = ["echo"]
        """
    )


def version(**fields: Any) -> ModelCard:
    return ModelCard(name="m", version="1", engine="transformers", **fields)


def is_there(shop: Shop) -> bool:
    return all(files(shop.store(number) / "blocks") for number in range(3))


@pytest.mark.parametrize("field", ["source", "adapter"])
def test_what_a_version_is_made_of_stays_until_it_is_retired(
    shop: Shop, registry: Registry, collect: Collect, field: str
) -> None:
    registry.register(version(**{field: f"artifact:sha256:{shop.digest}"}))
    assert "removed 0 objects" in collect()
    assert is_there(shop)
    registry.retire("m@1", NOW + 10)
    collect()
    assert is_there(shop), "a clock that is ahead keeps it longer"
    registry.run(lambda c: c.execute("UPDATE models SET stage_at = now() - interval '3 hours'"))
    collect(grace=6.0)
    assert is_there(shop), "it was retired within the grace"
    collect()
    assert not is_there(shop)


def test_without_the_registry_s_word_nothing_is_collected(
    shop: Shop, registry: Registry, collect: Collect
) -> None:
    configure(shop, "postgresql://tether@/tether?host=/nowhere/at/all")
    told = collect(fails=1)
    assert "nobody can say what the registry refers to, so nothing is collected" in told
    configure(shop, "")  # embedded, and its node doesn't run
    assert "runs with its node only" in collect(fails=1)
    assert is_there(shop)


def test_no_artifact_is_registered_while_others_are_collected(
    shop: Shop, registry: Registry, collect: Collect
) -> None:
    """And none collected while one is registered: it was looked at, and would be gone then."""
    path = shop.path / "cluster.toml"

    async def registering() -> None:
        async with Database(registry.dsn) as database:

            async def work(connection: Any) -> None:
                assert await models.hold_artifacts(connection)
                async with asyncio.timeout(PATIENCE_S):
                    told = await asyncio.to_thread(collect, fails=1)
                assert "a version is being registered" in told

            await database.transact(work)

    asyncio.run(registering())
    assert is_there(shop)

    async def work(keep: Any) -> None:
        assert keep == set()
        async with Database(registry.dsn) as database:
            assert not await database.transact(models.hold_artifacts)

    asyncio.run(used.collecting(load(path), path, "", 0.0, work))
    assert registry.run(models.hold_artifacts)


def test_a_repair_sees_to_what_only_the_registry_names(
    shop: Shop, registry: Registry, collect: Collect, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.register(version(source=f"artifact:sha256:{shop.digest}"))
    files(shop.store(1) / "blocks")[0].unlink()
    command = ["artifacts", "repair", "--config", str(shop.path / "cluster.toml")]
    assert app._guarded(command) == 0
    assert "repaired 1" in capsys.readouterr().out
    configure(shop, "postgresql://tether@/tether?host=/nowhere/at/all")
    files(shop.store(1) / "blocks")[0].unlink()
    assert app._guarded(command) == 0
    out, errors = capsys.readouterr()
    assert "what only the registry refers to is left out" in errors
    assert "repaired 0" in out
