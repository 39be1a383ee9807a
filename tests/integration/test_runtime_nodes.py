"""Whole nodes: how they start, refuse, shut down, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest
from thespian.actors import (
    ActorSystem,
    InvalidActorSpecification,
    NoCompatibleSystemForActor,
)

from supervision.errors import NoAnswer, PeerLost, Unavailable
from supervision.runtime import Endpoint
from supervision.runtime.packed import pack
from tests.support.runtime_actors import Echo, Parent, PlainParent, RtCreate, RtExit, RtPing, RtSync
from tests.support.runtime_node import alive, fresh_node, running_node, wait_for
from tests.support.waiting import NEVER_S, PATIENCE_S


async def test_actors_end_when_their_admin_is_killed() -> None:
    async with fresh_node() as node:
        async with node.endpoint() as endpoint:
            parent = await endpoint.create(Parent)
            child = await endpoint.ask(parent, RtCreate(kind="echo"))
            everyone = [p.pid for p in node.children()]
            assert {parent.pid, child.pid} <= set(everyone)
            os.kill(node.admin_pid, signal.SIGKILL)
            with pytest.raises(PeerLost):
                await endpoint.create(Echo)
        await asyncio.to_thread(wait_for, lambda: not any(alive(pid) for pid in everyone))


async def test_a_node_ends_with_its_owner() -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    async with fresh_node(**{"Owner Pid": owner.pid}) as node:
        async with node.endpoint() as endpoint:
            echo = await endpoint.create(Echo)
        everyone = [node.admin_pid, echo.pid, *(p.pid for p in node.children())]
        owner.kill()
        await owner.wait()
        await asyncio.to_thread(wait_for, lambda: not any(alive(pid) for pid in everyone))


async def test_the_admin_takes_no_code() -> None:
    async with fresh_node() as node:
        mark = node.run_dir / "owned"

        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return (os.mkdir, (str(mark),))

        async with node.endpoint() as endpoint:
            for payload in (
                pickle.dumps(Evil()),
                b"garbage",
                pack(["RegisterSourceAuthority", None]),
                pack(["ValidateSource", "hash", b"print()", None]),
            ):
                arrived = asyncio.Event()
                endpoint._hub.system(endpoint.admin, payload, lambda _, e=arrived: e.set())
                await asyncio.wait_for(arrived.wait(), PATIENCE_S)
            echo = await endpoint.create(Echo)
            assert (await endpoint.ask(echo, RtSync(number=1))).number == 1
            # An actor takes none either, and lives on.
            arrived = asyncio.Event()
            endpoint._hub.system(echo, pickle.dumps(Evil()), lambda _: arrived.set())
            await asyncio.wait_for(arrived.wait(), PATIENCE_S)
            assert (await endpoint.ask(echo, RtSync(number=2))).number == 2
        assert not mark.exists()


def test_thespians_own_door_is_bound_by_the_list_too() -> None:
    with running_node() as node:
        with pytest.raises(InvalidActorSpecification, match="Actor Classes"):
            node.system.createActor("subprocess.Popen")
        assert node.system.createActor(Echo) is not None


async def test_shutdown_stops_busy_actors_and_removes_all_sockets() -> None:
    async with fresh_node() as node:
        async with node.endpoint() as endpoint:
            made = [await endpoint.create(Echo) for _ in range(3)]
            asked = [
                asyncio.create_task(endpoint.ask(one, RtPing(delay_s=NEVER_S))) for one in made
            ]
            await endpoint.ask(made[-1], RtSync(number=0))
            await asyncio.to_thread(node.stop)
            for one in asked:
                with pytest.raises(Unavailable):  # Draining, or PeerLost
                    await one
        wait_for(lambda: not list((node.run_dir / "n1").iterdir()))


async def test_an_actor_whose_loop_is_blocked_can_still_be_killed() -> None:
    async with fresh_node() as node, node.endpoint() as endpoint:
        parent = await endpoint.create(Parent)
        child = await endpoint.ask(parent, RtCreate(kind="echo"))
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(NoAnswer):
            await endpoint.ask(child.address, RtSync(number=1), timeout=0.2)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(PeerLost):
            await endpoint.ask(child.address, RtSync(number=1))


def test_a_second_system_joins_the_node_that_runs() -> None:
    with running_node() as node:
        other = ActorSystem("tether", dict(node.capabilities), transientUnique=True)
        assert len([p for p in node.children() if alive(p.pid)]) == 1  # the logger
        assert other.createActor(Echo) is not None
        other._systemBase.transport.close()  # leaves without a shutdown


def test_a_run_directory_that_is_too_long_says_so(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(ValueError, match="shorter run directory"):
        ActorSystem("tether", {"Node Id": "n1", "Run Dir": str(deep)}, transientUnique=True)


async def test_an_endpoint_waits_for_a_node_that_is_still_starting(folder: Path) -> None:
    async def late() -> Endpoint:
        endpoint = Endpoint.connect(run_dir=str(folder), node="n1", timeout=PATIENCE_S)
        return await endpoint.__aenter__()

    waiting = asyncio.create_task(late())
    await asyncio.sleep(0.1)  # it must not give up meanwhile, which has no event
    assert not waiting.done()
    capabilities = {"Node Id": "n1", "Run Dir": str(folder), "Admin Port": 1900}
    system = await asyncio.to_thread(
        lambda: ActorSystem("tether", capabilities, transientUnique=True)
    )
    endpoint = await waiting
    await endpoint.aclose()
    with pytest.raises((NoCompatibleSystemForActor, InvalidActorSpecification)):
        await asyncio.to_thread(lambda: system.createActor("tests.support.runtime_actors.Echo"))
    await asyncio.to_thread(system.shutdown)
    await asyncio.to_thread(wait_for, lambda: not list((folder / "n1").iterdir()))


async def test_a_parent_that_ends_while_a_child_comes_up_takes_it_along() -> None:
    async with fresh_node() as node, node.endpoint() as endpoint:
        parent = await endpoint.create(Parent)
        making = [
            asyncio.create_task(endpoint.ask(parent, RtCreate(kind="echo")))
            for _ in range(6)  # some have a process by then, some wait for their turn
        ]
        await endpoint.ask(parent, RtSync(number=0))
        await endpoint.ask(parent, RtExit(reason="test"))
        await asyncio.gather(*making, return_exceptions=True)
        await asyncio.to_thread(wait_for, lambda: not alive(parent.pid))
        await asyncio.to_thread(
            wait_for, lambda: len([p for p in node.children() if alive(p.pid)]) == 1
        )  # the logger


async def test_a_plain_actor_whose_starter_is_gone_ends() -> None:
    async with fresh_node() as node, node.endpoint() as endpoint:
        maker = await asyncio.to_thread(node.system.createActor, PlainParent)
        pid = await asyncio.to_thread(node.system.ask, maker, "make", PATIENCE_S)
        os.kill(pid, signal.SIGKILL)  # before its child can have said that it is up
        await asyncio.to_thread(
            wait_for, lambda: len([p for p in node.children() if alive(p.pid)]) == 1
        )
        assert endpoint.admin_pid == node.admin_pid
