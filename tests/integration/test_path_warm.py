"""A worker on the path follows the catalog: what is retired goes after its last run, a canary is
warmed before it counts as ready, and a worker that was killed comes back with what is offered."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
import pytest_asyncio

from actors.contracts import Fleet, HealthReport, ModelCard, MoveModel, RegisterModel, WatchFleet
from actors.contracts.catalog import Move
from actors.errors import ModelNotFound
from actors.stores.embedded import Embedded
from supervision.contracts import Contract
from supervision.errors import TetherError
from tests.support import tiny_gguf
from tests.support.engine_process import is_engine
from tests.support.path_node import CARD, Answer, Client, PathNode, running_path, until
from tests.support.waiting import NEVER_S

WORKER = "workers/w1"
TOKENS = 500
LARGE = ModelCard(name="large", version="1", engine="echo", memory_mib=5000)
BROKEN = ModelCard(name="broken", version="1", engine="gguf", source="/nowhere.gguf")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return tiny_gguf.card(tiny_gguf.make(tmp_path_factory.mktemp("tiny")), context=640)


@pytest.fixture(scope="module")
def node(server: Embedded, tiny: ModelCard) -> Iterator[PathNode]:
    with running_path(
        server,
        workers=("w1",),
        slots=8,
        card=CARD,
        others=(tiny, LARGE, BROKEN),
        models=("*",),
        model_memory_mib=2000,
    ) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PathNode) -> AsyncIterator[Client]:
    async with node.client() as made:
        yield made


async def report(client: Client) -> HealthReport:
    """The last word of the worker."""
    roster = (await client.line("control/roster")).address
    async for fleet in client.endpoint.stream(roster, WatchFleet()):
        assert isinstance(fleet, Fleet)
        if fleet.workers:
            return fleet.workers[0]
    raise AssertionError("the roster ended")


async def says(client: Client, models: set[str]) -> HealthReport:
    """The worker's report, once it answers for just these."""
    found: list[HealthReport] = []

    async def so() -> bool:
        found[:] = [await report(client)]
        return set(found[0].models) == models

    await until(so)
    return found[0]


async def order(client: Client, contract: Contract) -> None:
    await client.endpoint.ask((await client.line("control/registry")).address, contract)


def engines(worker: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(worker).children() if is_engine(p)]


async def answered(client: Client, model: str) -> str:
    """Which version has answered."""
    token = secrets.token_hex(8)
    answer = await client.answer(client.infer("the fox", token, model_ref=model, max_tokens=3))
    assert answer.completed is not None
    return answer.completed.model_ref


async def test_what_does_not_fit_or_is_broken_leaves_the_others_alone(client: Client) -> None:
    said = await says(client, {"echo@1", "tiny@1"})
    assert "large@1" not in said.loadable
    assert "broken@1" not in said.models
    assert said.budget_bytes == 2000 << 20
    assert 0 < said.model_bytes <= said.budget_bytes
    assert said.gpu_class == "cpu"
    for model in ("echo", "tiny"):
        assert await answered(client, model) == f"{model}@1"
    for model in ("large", "broken"):
        with pytest.raises(TetherError):
            await client.answer(
                client.infer("x", secrets.token_hex(8), model_ref=model, deadline_s=1.0)
            )


async def test_a_version_from_registered_to_retired_and_a_worker_killed_in_between(
    client: Client, tiny: ModelCard
) -> None:
    await says(client, {"echo@1", "tiny@1"})
    line = await client.line(WORKER)
    old = engines(line.pid)
    assert len(old) == 1

    # a canary is registered: its files are the same, it is loaded beside the other
    await order(client, RegisterModel(card=tiny_of(tiny, "2")))
    await order(client, MoveModel(ref="tiny@2", verb=Move.PROMOTE))
    await says(client, {"echo@1", "tiny@1", "tiny@2"})
    assert await answered(client, "tiny@2") == "tiny@2"

    # the first is retired while it answers
    await order(client, MoveModel(ref="tiny@2", verb=Move.PROMOTE))
    answer, begun = Answer(), asyncio.Event()
    token = secrets.token_hex(8)
    running = client.infer(
        "the fox", token, model_ref="tiny@1", max_tokens=TOKENS, deadline_s=NEVER_S,
        sampling={"temperature": 1.0, "seed": 7},
    )  # fmt: skip

    async def read() -> None:
        async for item in client.stream(running, credit=2):
            answer.add(item)
            if not begun.is_set():
                begun.set()
                await order(client, MoveModel(ref="tiny@1", verb=Move.RETIRE))
                await says(client, {"echo@1", "tiny@2"})
                assert old[0].is_running(), "its run isn't over"

    await read()
    assert answer.completed is not None
    assert answer.completed.model_ref == "tiny@1"
    await until(gone(old[0]))
    with pytest.raises(ModelNotFound):
        await answered(client, "tiny@1")
    assert await answered(client, "tiny") == "tiny@2"

    # the configuration still names tiny@1; the catalog doesn't
    await client.kill(WORKER)
    await client.successor(line)
    said = await says(client, {"echo@1", "tiny@2"})
    assert "tiny@1" not in (*said.loading, *said.loadable)
    assert await answered(client, "tiny") == "tiny@2"


def tiny_of(card: ModelCard, version: str) -> ModelCard:
    return ModelCard(
        name=card.name, version=version, engine=card.engine, source=card.source, context=640
    )


def gone(process: psutil.Process):  # type: ignore[no-untyped-def]
    async def is_gone() -> bool:
        return not process.is_running()

    return is_gone
