"""`scripts/prove registry [KILLS]`: operators who change the catalog of a node that runs, all at
once, while its registry is killed."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from actors.contracts import ModelCard, ModelsShown, MoveModel, RegisterModel, ShowModels, Stage
from actors.contracts.catalog import Move
from actors.core.catalog import current
from actors.errors import ModelConflict
from actors.stores import models
from actors.stores.embedded import Embedded
from supervision.contracts import Contract
from supervision.errors import Draining, PeerLost, Unavailable
from tests.support.path_node import Client, PathNode, running_path
from tests.support.waiting import PATIENCE_S

REGISTRY = "control/registry"
OPERATORS = 4
KILLS = int(os.environ.get("TETHER_REGISTRY_KILLS", "20"))
MOVES = 15 * KILLS  # of each
VERSIONS = ("1", "2", "3")


@pytest.fixture(scope="module")
def node(server: Embedded) -> Iterator[PathNode]:
    with running_path(server, workers=("w1",)) as node:
        yield node


async def ask(client: Client, contract: Contract) -> ModelsShown:
    """The registry's answer; one whose answer was lost is asked the same again."""
    async with asyncio.timeout(2 * PATIENCE_S):
        while True:
            try:
                address = (await client.line(REGISTRY)).address
                shown = await client.endpoint.ask(address, contract, timeout=PATIENCE_S)
            except (PeerLost, Draining, Unavailable):
                await asyncio.sleep(0.02)
            else:
                assert isinstance(shown, ModelsShown)
                return shown


async def operate(client: Client, seed: int, made: Counter[str], moved: asyncio.Semaphore) -> None:
    """Looks, decides, and moves, again and again; `made` counts the steps of each move."""
    dice = random.Random(seed)
    for number in range(MOVES):
        by = f"{seed}-{number}"
        seen = await ask(client, ShowModels(ref="m"))
        ref = f"m@{dice.choice(VERSIONS)}"
        verb = dice.choice(("promote", "promote", "rollback", "retire", "register"))
        order: Contract
        if verb == "register":
            name, _, version = ref.partition("@")
            card = ModelCard(name=name, version=version, engine="echo")
            order = RegisterModel(card=card, by=by, revision=seen.revision)
        else:
            to = dice.choice(("canary", "stable")) if verb == "promote" else ""
            order = MoveModel(
                ref=ref, verb=Move(verb), to=to, force=True, by=by, revision=seen.revision
            )
        try:
            shown = await ask(client, order)
        except ModelConflict:
            continue
        finally:
            moved.release()
        made[by] = len(shown.history)


async def test_each_move_is_made_once_whoever_is_killed(
    node: PathNode, capfd: pytest.CaptureFixture[str]
) -> None:
    async with node.client() as client:
        for version in VERSIONS:
            card = ModelCard(name="m", version=version, engine="echo")
            await ask(client, RegisterModel(card=card, by=f"first-{version}"))
        made: Counter[str] = Counter()
        moved = asyncio.Semaphore(0)
        operators = [
            asyncio.create_task(operate(client, seed, made, moved)) for seed in range(OPERATORS)
        ]
        for _ in range(KILLS):
            for _ in range(OPERATORS * MOVES // (KILLS + 2)):
                await asyncio.wait_for(moved.acquire(), 2 * PATIENCE_S)
            await client.kill(REGISTRY)
        await asyncio.gather(*operators)

        lines = await models.changes(client.database, "m", most=100_000)
        by = Counter(line.by for line in lines)
        assert not [name for name, count in by.items() if count > 1], "a move was made twice"
        assert all(by[name] == 1 for name, steps in made.items() if steps)
        assert sum(by.values()) > OPERATORS, "nothing has happened"
        with capfd.disabled():
            print(f"{KILLS} kills, {len(made)} moves answered, {len(lines)} steps, none twice")

        stages: dict[str, str] = {}
        stable: dict[str, float] = {}
        for line in lines:
            assert stages.get(line.ref, "") == line.before
            stages[line.ref] = line.after
            stable.pop(line.ref, None)
            if line.after == Stage.STABLE:
                stable[line.ref] = line.at_s
            assert list(stages.values()).count(Stage.CANARY) <= 1
        shown = await ask(client, ShowModels(ref="m"))
        assert {card.ref: str(card.stage) for card in shown.models} == stages
        newest = max(stable, key=stable.__getitem__, default=None)
        assert shown.current == ((newest,) if newest else ())
        assert tuple(c.ref for c in current(shown.models).values()) == shown.current
