"""How a process of one node finds the processes of another, over mutual TLS."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from actors.contracts import Readiness
from supervision.errors import PeerLost, Unavailable
from supervision.nodes import root_of_node, tree_of_node
from supervision.root import stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import SupervisorOptions
from tests.support.cluster_nodes import Nodes, cluster_of, grown
from tests.support.runtime_node import wait_for
from tests.support.supervised_children import Stub, StubOptions

STUB = SupervisorOptions(children=(Stub.spec(StubOptions()),))


@pytest.fixture(scope="module")
def two() -> Iterator[Nodes]:
    with cluster_of({"n1": {}, "n2": {}}) as made:
        yield made


async def test_a_node_finds_the_tree_of_another(two: Nodes) -> None:
    async with two.endpoint("n1") as here, two.endpoint("n2") as there:
        with pytest.raises(Unavailable, match="no root supervisor"):
            await root_of_node(here, "n2", two.ports["n2"], timeout=30)
        root = await grown(there, STUB)
        assert await root_of_node(here, "n2", two.ports["n2"], timeout=30) == root
        tree = await tree_of_node(here, "n2", two.ports["n2"], timeout=30)
        found = tree.address("stub")
        assert found is not None
        # What was found can be asked, and its end is seen from here.
        assert (await here.ask(found, Readiness(), 30)).models == ("stub",)
        gone = asyncio.Event()
        here.watch(found, gone.set)
        os.kill(Address.parse(found).pid, signal.SIGKILL)
        await asyncio.wait_for(gone.wait(), 30)
        await stop_tree(there, root)
        await asyncio.to_thread(wait_for, lambda: not _answers(root.pid), 30)
        async with asyncio.timeout(30):
            while (await _root(here, two.ports["n2"])) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        again = await grown(there, STUB)
        assert again != root
        assert await root_of_node(here, "n2", two.ports["n2"], timeout=30) == again
        await stop_tree(there, again)


async def test_nobody_is_found_without_a_certificate(two: Nodes) -> None:
    async with two.nodes["n1"].endpoint() as stranger:
        with pytest.raises(PeerLost):
            await tree_of_node(stranger, "n2", two.ports["n2"], timeout=30)


async def _root(endpoint: Endpoint, port: int) -> Address | None:
    try:
        return await root_of_node(endpoint, "n2", port, timeout=30)
    except Unavailable:
        return None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
