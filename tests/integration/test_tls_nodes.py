"""Whole nodes with an identity each: actors, endpoints and Thespian's conventions over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from thespian.actors import (
    ActorExitRequest,
    ActorSystem,
    InvalidActorSpecification,
    NoCompatibleSystemForActor,
)
from thespian.system.messages.admin import SystemShutdown

from actors.core.node_roles import ROLES
from supervision.errors import PeerLost
from supervision.runtime import Address, Endpoint, system_messages
from supervision.runtime.placements import ORPHAN_S
from supervision.security.authority import Authority
from supervision.security.identity import IdentityUnusable
from tests.support.ports import free_port
from tests.support.runtime_actors import (
    Echo,
    ForItself,
    OffTheList,
    Parent,
    Picky,
    RtCreate,
    RtPing,
    RtRead,
    RtReport,
)
from tests.support.runtime_node import Node, alive, running_node, wait_for
from tests.support.waiting import NEVER_S, PATIENCE_S

HOST = "127.0.0.1"


class Pair:
    """Nodes n1, which leads, and n2, which is of its convention and has a GPU. They have neither
    a run directory nor a Unix socket in common."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.authority = Authority.init(folder / "ca", "blue")
        self.ports = {"n1": free_port(), "n2": free_port()}
        self.routes = {node: f"{HOST}:{port}" for node, port in self.ports.items()}
        for node in self.ports:
            self.authority.issue(node, roles=ROLES)
        leader = {"Convention Address.IPv4": f"{HOST}:{self.ports['n1']}"}
        self.one = stack.enter_context(running_node(**self.capabilities("n1"), **leader))
        self.two = stack.enter_context(
            running_node(
                **self.capabilities("n2"),
                **leader,
                **{
                    "gpu": True,
                    "Actor Classes": [
                        "tests.support.runtime_actors:Echo",
                        "tests.support.runtime_actors:Picky",
                        "tests.support.runtime_actors:ForItself",
                    ],
                    "Placed Classes": ["tests.support.runtime_actors:Picky"],
                },
            )
        )

    def capabilities(self, node: str) -> dict[str, Any]:
        return {
            "Node Id": node,
            "Admin Port": self.ports[node],
            "Tls Identity Dir": str(self.authority.folder_of(node)),
            "Listen": HOST,
            "Routes": self.routes,
        }

    def endpoint(self, node: Node) -> Endpoint:
        where = self.authority.folder_of(node.capabilities["Node Id"])
        return node.endpoint(identity_dir=str(where), routes=self.routes)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="tls-"))
    try:
        with ExitStack() as stack:
            yield Pair(folder, stack)
    finally:
        shutil.rmtree(folder)


async def test_actors_of_two_nodes_talk(pair: Pair) -> None:
    async with pair.endpoint(pair.one) as here, pair.endpoint(pair.two) as there:
        one, two = await here.create(Echo), await there.create(Echo)
        assert (one.node, two.node) == ("n1", "n2")
        assert one.port
        assert two.port
        assert two.port != one.port
        pong = await here.ask(two, RtPing(number=7, payload="over there"))
        assert (pong.number, pong.payload) == (7, "over there")
        # From one actor to another, a stream that is left before its end: the other one hears.
        assert (await here.ask(one, RtRead(address=str(two), items=20))).number == 20
        async with asyncio.timeout(PATIENCE_S):
            while not any(
                note.startswith("count cancelled")
                for note in (await there.ask(two, RtReport())).notes
            ):
                await here.ask(one, RtRead(address=str(two), items=1))
        asked = asyncio.create_task(here.ask(two, RtPing(delay_s=NEVER_S), NEVER_S))
        async with asyncio.timeout(PATIENCE_S):
            while (await there.ask(two, RtReport())).running == 0:
                pass
        os.kill(two.pid, signal.SIGKILL)
        with pytest.raises(PeerLost):
            async with asyncio.timeout(PATIENCE_S):
                await asked


async def placed(pair: Pair) -> Address:
    """An actor at n2 that was asked for at n1, from outside."""

    def place() -> Address:
        return pair.one.system.createActor(Picky).addressDetails  # type: ignore[no-any-return]

    async with asyncio.timeout(PATIENCE_S):
        while True:  # n2 may still be joining
            with contextlib.suppress(NoCompatibleSystemForActor):
                return await asyncio.to_thread(place)
            await asyncio.sleep(0.1)


async def test_an_actor_is_placed_where_its_needs_are_met(pair: Pair) -> None:
    address = await placed(pair)
    assert address.node == "n2"
    assert psutil.Process(address.pid).ppid() == pair.two.admin_pid
    async with pair.endpoint(pair.one) as here:
        assert (await here.ask(address, RtPing(number=1))).number == 1


async def test_a_placed_actor_outlives_whoever_asked_for_it_from_outside(pair: Pair) -> None:
    """Thespian asks by a door of its own, which it closes when it has the answer."""
    address = await placed(pair)
    async with pair.endpoint(pair.one) as here:
        gone = asyncio.Event()
        here.watch(address, gone.set)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gone.wait(), ORPHAN_S + 2.0)
        assert (await here.ask(address, RtPing(number=1))).number == 1


async def test_a_placed_actor_ends_with_the_node_that_it_was_asked_for_at(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pair = await asyncio.to_thread(Pair, tmp_path, stack)
        address = await placed(pair)
        assert alive(address.pid)
        os.kill(pair.one.admin_pid, signal.SIGKILL)
        await asyncio.to_thread(wait_for, lambda: not alive(address.pid))
        assert alive(pair.two.admin_pid)
        await asyncio.to_thread(stack.close)


@pytest.mark.parametrize("kind", [OffTheList, ForItself])
async def test_a_class_off_the_list_is_not_started_from_another_node(
    pair: Pair, kind: type[Echo]
) -> None:
    """n1 would allow it, and n2, which alone has what it needs, doesn't, or for itself only."""
    with pytest.raises((NoCompatibleSystemForActor, InvalidActorSpecification)):
        await asyncio.to_thread(pair.one.system.createActor, kind)


async def test_an_endpoint_without_an_identity_reaches_its_own_node_only(pair: Pair) -> None:
    async with pair.one.endpoint() as here, pair.endpoint(pair.two) as there:
        two = await there.create(Echo)
        with pytest.raises(PeerLost):
            await here.ask(two, RtPing())
        one = await here.create(Parent)
        child = await here.ask(one, RtCreate(kind="echo"))
        assert Address.parse(child.address).port


async def test_a_node_is_not_shut_down_by_another(pair: Pair) -> None:
    async with pair.endpoint(pair.one) as here, pair.endpoint(pair.two) as there:
        admin = Address.admin("n1", pair.ports["n1"])
        arrived = asyncio.get_running_loop().create_future()
        there._hub.system(admin, system_messages.encode(SystemShutdown()), arrived.set_result)
        assert await asyncio.wait_for(arrived, PATIENCE_S) is None
        assert (await here.ask(await here.create(Echo), RtPing(number=1))).number == 1


async def test_an_actor_is_ended_by_the_node_that_placed_it_and_by_no_other(pair: Pair) -> None:
    """A request to exit that came from another node ended any actor, and a node by its root."""
    theirs = await placed(pair)
    payload = system_messages.encode(ActorExitRequest())
    async with pair.endpoint(pair.one) as here, pair.endpoint(pair.two) as there:
        two = await there.create(Echo)
        for _ in range(2):
            arrived = asyncio.get_running_loop().create_future()
            here._hub.system(two, payload, arrived.set_result)
            assert await asyncio.wait_for(arrived, PATIENCE_S) is None
            assert (await there.ask(two, RtPing(number=1))).number == 1
        gone = asyncio.Event()
        here.watch(theirs, gone.set)
        here._hub.system(theirs, payload, lambda _: None)
        await asyncio.wait_for(gone.wait(), PATIENCE_S)
        assert (await there.ask(two, RtPing(number=2))).number == 2


async def test_every_process_takes_the_new_certificate_while_it_runs(pair: Pair) -> None:
    async with pair.endpoint(pair.one) as here, pair.endpoint(pair.two) as there:
        two = await there.create(Echo)
        made = pair.authority.renew("n2")
        await asyncio.sleep(0)

        def shown() -> int:
            import ssl

            from tests.support.tls_hubs import shows

            with (
                socket.create_connection((HOST, two.port), timeout=PATIENCE_S) as sock,
                shows(pair.authority, "n1").wrap_socket(sock) as tls,
            ):
                from cryptography import x509

                der = tls.getpeercert(binary_form=True)
                assert der is not None
                pem = ssl.DER_cert_to_PEM_cert(der).encode()
                return x509.load_pem_x509_certificate(pem).serial_number

        await asyncio.to_thread(wait_for, lambda: shown() == int(made.serial, 16))
        assert (await here.ask(two, RtPing(number=2))).number == 2


def test_a_node_whose_identity_is_of_no_use_does_not_start(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "ca", "blue")
    authority.issue("n2", roles=ROLES)
    with pytest.raises(IdentityUnusable, match="this is node n1"):
        ActorSystem(
            "tether",
            {
                "Node Id": "n1",
                "Run Dir": str(tmp_path / "run"),
                "Tls Identity Dir": str(authority.folder_of("n2")),
            },
            transientUnique=True,
        )
    assert not (tmp_path / "run").exists()
