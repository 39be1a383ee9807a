"""The front door as a supervised actor in front of a gateway that is one: kills and drains."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import openai
import pytest

from actors.contracts import ListModels
from supervision.contracts import ChildStatus, ShowTree, TreeNode
from supervision.errors import TetherError
from supervision.partition import PartitionSupervisor
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import PartitionOptions, SupervisorOptions
from supervision.strategy import Strategy
from supervision.supervisor import Supervisor
from supervision.system import System
from supervision.tree_view import index_of
from tests.support.echo_actor import EchoGatewayActor
from tests.support.http_server import KEY
from tests.support.ports import free_port
from tests.support.raw_http import Raw, call, chat, events, said
from tests.support.waiting import PATIENCE_S, PatientEndpoint
from tether.http.caller import tenant_of
from tether.http.listener import listen
from tether.http.options import DoorOptions
from tether.http.server_actor import FrontDoor
from tether.node.exposition import exposition
from tether.node.readiness import ready_models

CHAT = "/v1/chat/completions"
NODE, PORT = "d1", 1957


@pytest.fixture(scope="module")
def run_dir() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tether-") as folder:
        patch = pytest.MonkeyPatch()
        patch.setenv("THESPLOG_FILE", f"{folder}/thespian.log")
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", f"{folder}/metrics")
        (Path(folder) / "metrics").mkdir()
        system = System.start(
            {
                "Node Id": NODE,
                "Admin Port": PORT,
                "Run Dir": folder,
                "Actor Classes": [
                    "supervision.*",
                    "tests.support.echo_actor.*",
                    "tether.http.server_actor.*",
                ],
                "Owner Pid": os.getpid(),
            }
        )
        try:
            yield folder
        finally:
            system.shutdown()
            patch.undo()


class Node:
    """A tree with two gateways and doors on one port."""

    def __init__(self, endpoint: Endpoint, root: Address, port: int) -> None:
        self.endpoint, self.root, self.port = endpoint, root, port

    async def nodes(self) -> dict[str, TreeNode]:
        tree = await self.endpoint.ask(self.root, ShowTree())
        return {node.path: node for node in tree.nodes}

    async def kill(self, path: str) -> None:
        os.kill((await self.nodes())[path].pid, signal.SIGKILL)

    async def counts(self) -> list[str]:
        """What the gateways say of themselves."""
        nodes = await self.nodes()
        addresses = [nodes[f"control/gateways/{number}"].address for number in range(2)]
        return list(await ready_models(self.endpoint, addresses))

    @property
    def busy_gateway(self) -> str:
        """The path of the gateway that the test's tenant belongs to."""
        return f"control/gateways/{index_of(tenant_of(KEY), 2)}"


@pytest.fixture
async def node(run_dir: str, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    count: int = getattr(request, "param", 2)  # of doors
    port = free_port()
    options = DoorOptions(port=port, share_port=True, gateways=2)
    gateways = PartitionOptions(child=EchoGatewayActor.spec(), partitions=2)
    control = SupervisorOptions(
        strategy=Strategy.REST_FOR_ONE,
        children=(PartitionSupervisor.spec(gateways, id="gateways"),),
    )
    doors = SupervisorOptions(
        children=tuple(
            FrontDoor.spec(options, id=str(n), shutdown=PATIENCE_S) for n in range(count)
        )
    )
    tree = SupervisorOptions(
        children=(Supervisor.spec(control, id="control"), Supervisor.spec(doors, id="doors"))
    )
    async with PatientEndpoint.connect(run_dir=run_dir, node=NODE, port=PORT) as endpoint:
        root = await start_tree(endpoint, tree)
        try:
            yield Node(endpoint, root, port)
        finally:
            await stop_tree(endpoint, root)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - only looking can tell
            await asyncio.sleep(0.02)


async def test_clients_kills_and_hangups(node: Node) -> None:
    """One tree for all of it: starting one takes seconds."""
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{node.port}/v1", api_key=KEY, max_retries=0
    ) as client:
        assert "echo@1" in await node.counts()
        assert [model.id for model in (await client.models.list()).data] == ["echo"]
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "a b c"}], max_tokens=7,
            stream=True,
        )  # fmt: skip
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert text == "a b c a b c a "

    # 8 streams go on at the next token when their gateway is killed under them
    async def one(number: int, started: asyncio.Semaphore) -> bytes:
        async with await Raw.open(node.port) as raw:
            raw.post(CHAT, chat(f"w{number} delay=10", 200, stream=True))
            assert await raw.head() == 200
            body = b""
            async for part in raw.parts():
                if not body:
                    started.release()
                body += part
            return body

    started = asyncio.Semaphore(0)
    streams = [asyncio.create_task(one(number, started)) for number in range(8)]
    for _ in streams:
        await started.acquire()
    await node.kill(node.busy_gateway)
    for number, body in enumerate(await asyncio.gather(*streams)):
        assert said(body) == f"w{number} delay=10 " * 100
        assert events(body)[-1] == "[DONE]"

    # a client that leaves cancels the work behind it
    async with await Raw.open(node.port) as raw:
        raw.post(CHAT, chat("hold", 5, stream=True))
        assert await raw.head() == 200
        async with aclosing(raw.parts()) as parts:
            await anext(parts)
        assert "running=1" in await node.counts()

    async def idle() -> bool:
        counts = await node.counts()
        return "running=1" not in counts and "cancelled=1" in counts

    await until(idle)

    # a killed door breaks its own streams only, and comes back
    before = await node.nodes()
    os.kill(before["doors/0"].pid, signal.SIGKILL)

    async def back() -> bool:
        now = (await node.nodes())["doors/0"]
        return now.state is ChildStatus.RUNNING and now.pid != before["doors/0"].pid

    await until(back)
    assert (await node.nodes())["doors/1"].pid == before["doors/1"].pid
    for _ in range(10):
        assert (await call(node.port, "POST", CHAT, chat("a")))[0] == 200

    # what all doors have counted is summed, what the killed one has included
    counted = {
        b'tether_http_requests_total{route="chat_completions",status="200"} 20.0',
        b"tether_http_hangups_total 1.0",
    }

    async def summed() -> bool:  # a request is counted a moment after it was answered
        return counted <= set(exposition().splitlines())

    await until(summed)


@pytest.mark.parametrize("node", [1], indirect=True)
async def test_stopping_drains(node: Node) -> None:
    async with await Raw.open(node.port) as running, await Raw.open(node.port) as idle:
        idle.post(CHAT, chat("a"))
        assert (await idle.answer())[0] == 200
        running.post(CHAT, chat("a b hold", 90, stream=True))
        assert await running.head() == 200
        gateway = (await node.nodes())[node.busy_gateway].address
        stopping = asyncio.create_task(stop_tree(node.endpoint, node.root))

        async def draining() -> bool:
            idle.post(CHAT, chat("late"))
            return (await idle.answer())[0] == 503

        await until(draining)
        assert idle.headers["connection"] == "close" and idle.headers["retry-after"]
        release = ListModels(credential="tether-release-secret")
        await node.endpoint.ask(gateway, release)
        body = await running.body()
        assert said(body) == "a b hold " * 30 and events(body)[-1] == "[DONE]"
        await stopping


async def test_an_occupied_port_is_told(run_dir: str) -> None:
    async with PatientEndpoint.connect(run_dir=run_dir, node=NODE, port=PORT) as endpoint:
        with listen("127.0.0.1", 0, share=False) as other:
            port = other.getsockname()[1]
            door = FrontDoor.spec(DoorOptions(port=port))
            with pytest.raises(TetherError) as caught:
                await start_tree(endpoint, SupervisorOptions(intensity=0, children=(door,)))
    assert f"127.0.0.1:{port}" in str(caught.value)
