"""More models than their worker has memory for, on a real node: what is asked for is loaded, what
was used least goes, and what is pinned stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import tiny_gguf
from tests.support.engine_process import is_engine
from tests.support.node_process import Launcher, Node, tether, until, write_config
from tests.support.waiting import PATIENCE_S

MODEL = """
[[models]]
name = "{name}"
engine = "gguf"
source = "{source}"
context = 512
memory_mib = {mib}
"""
WORKER = """
[[workers]]
id = "w"
models = ["*"]
pinned = ["pinned"]
model_memory_mib = 250
slots = 4
"""


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("warm")
    source = tiny_gguf.make(folder)
    sizes = {"large": 300, "one": 100, "two": 100, "pinned": 100}  # a node is ready without `large`
    models = [MODEL.format(name=k, source=source, mib=v) for k, v in sizes.items()]
    write_config(folder, models="".join(models) + WORKER)
    return launch(folder)


@pytest.fixture
async def http(node: Node) -> Any:
    async with httpx2.AsyncClient(
        base_url=node.url, headers=node.headers, timeout=2 * PATIENCE_S
    ) as client:
        yield client


def engines(node: Node) -> set[int]:
    """The processes of all engines."""
    worker = psutil.Process(node.tree()["workers/w"]["pid"])
    return {p.pid for p in worker.children() if is_engine(p)}


async def answering(node: Node, *models: str) -> None:
    """Returns when just these answer without being loaded."""

    async def they() -> bool:
        shown = await asyncio.to_thread(tether, "shell", "-c", "workers", "--json", cwd=node.folder)
        [worker] = map(json.loads, shown.stdout.splitlines())
        return set(worker["models"]) == {f"{m}@1" for m in models}

    await until(they, f"{models} answer, and no other")


async def fetched(url: str) -> str:
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as client:
        return (await client.get(url)).text


async def samples(node: Node, name: str) -> Iterator[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(await fetched(node.metrics))
    return (
        (sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name == name
    )


async def ask(http: httpx2.AsyncClient, model: str) -> None:
    answer = await http.post(
        "/v1/completions", json={"model": model, "prompt": "the fox", "max_tokens": 4}
    )
    assert answer.status_code == 200, answer.text


async def test_what_is_asked_for_comes_once_and_what_was_used_least_goes(
    http: httpx2.AsyncClient, node: Node
) -> None:
    await answering(node, "pinned", "one")  # in the order of the configuration
    first = engines(node)
    assert len(first) == 2
    await asyncio.gather(*(ask(http, "two") for _ in range(50)))
    await answering(node, "pinned", "two")
    loads = {
        labels["model"]: value
        for labels, value in await samples(node, "tether_warm_loads_total")
        if labels["result"] == "loaded"
    }
    assert loads == {"pinned@1": 1, "one@1": 1, "two@1": 1}, "fifty requests are one load"
    gone = [pid for pid in first if not psutil.pid_exists(pid)]
    assert len(gone) == 1, "the memory of the other one is back"

    await ask(http, "one@1")
    await answering(node, "pinned", "one")
    evicted = {
        (labels["model"], labels["why"]): value
        for labels, value in await samples(node, "tether_warm_evictions_total")
    }
    assert evicted == {("one@1", "room"): 1, ("two@1", "room"): 1}

    async def counted() -> bool:
        held = {k["kind"]: v / 2**20 for k, v in await samples(node, "tether_warm_bytes")}
        return held == {"held": 200, "budget": 250}

    await until(counted, "the bytes of two models are shown")


async def test_a_worker_that_is_killed_comes_back_as_it_began(
    http: httpx2.AsyncClient, node: Node
) -> None:
    psutil.Process(node.tree()["workers/w"]["pid"]).kill()
    await asyncio.gather(ask(http, "two"), ask(http, "pinned"))
    await answering(node, "pinned", "two")
    assert len(engines(node)) == 2
