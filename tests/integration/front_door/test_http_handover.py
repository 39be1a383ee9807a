"""One listening socket and the doors that come and go with it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervision.errors import Hindered
from supervision.runtime.sockets import Listener
from tests.support.http_server import served
from tests.support.raw_http import Raw, call, chat, events, said
from tests.support.waiting import PATIENCE_S, until
from tether.http.handover import Handover, receive
from tether.http.listener import opened
from tether.http.options import DoorOptions

CHAT = "/v1/chat/completions"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "node"
    folder.mkdir(mode=0o700)
    return folder


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Held:
    """What `tether up` holds."""

    def __init__(self, folder: Path) -> None:
        self.sock = opened("127.0.0.1", 0)
        self.port: int = self.sock.getsockname()[1]
        self.path = str(folder / "http")
        self.handover = Handover(self.sock, self.path)

    def close(self) -> None:
        self.handover.close()
        self.sock.close()


@pytest.fixture
async def held(folder: Path) -> AsyncIterator[Held]:
    held = Held(folder)
    yield held
    held.close()


async def test_an_end_of_a_door_never_closes_the_port(held: Held) -> None:
    options = DoorOptions(handover=held.path)
    async with served(options=options) as first:
        assert first.port == held.port
        async with await Raw.open(held.port) as running:
            running.post(CHAT, chat("a hold", 4, stream=True))
            assert await running.head() == 200
            gateway = first.node.gateway()
            await until(lambda: gateway.running == 1)

            first.server.withdraw()  # as an orphan does
            first.server.withdraw()
            early = asyncio.create_task(call(held.port, "POST", CHAT, chat("early")))
            done, _ = await asyncio.wait([early], timeout=0.2)
            assert not done, "who has withdrawn took a connection"

            # the successor takes what came meanwhile, beside what its predecessor still answers
            async with served(options=options) as second:
                assert (await early)[0] == 200
                assert len(second.node.gateway().seen) == 1
                for _ in range(20):
                    assert (await call(held.port, "POST", CHAT, chat("b")))[0] == 200
                assert len(second.node.gateway().seen) == 21
                gateway.release.set()
                body = await running.body()
                assert said(body) == "a hold a hold " and events(body)[-1] == "[DONE]"
    # both have ended: it still listens, for the next one
    late = asyncio.create_task(call(held.port, "POST", CHAT, chat("late")))
    done, _ = await asyncio.wait([late], timeout=0.2)
    assert not done
    async with served(options=options):
        assert (await late)[0] == 200
    held.close()
    with pytest.raises(ConnectionRefusedError):
        await Raw.open(held.port)


async def test_doors_share_it(held: Held) -> None:
    options = DoorOptions(handover=held.path)
    async with served(options=options) as one, served(options=options) as two:
        for _ in range(20):
            assert (await call(held.port, "POST", CHAT, chat("a")))[0] == 200
        seen = [len(door.node.gateway().seen) for door in (one, two)]
    assert sum(seen) == 20


async def test_many_who_ask_at_once_and_nothing_is_left_open(held: Held) -> None:
    before = descriptors()
    found = await asyncio.gather(*(receive(held.path, PATIENCE_S) for _ in range(200)))
    assert {kept for _, kept in found} == {b""}
    got = [sock for sock, _ in found]
    del found
    assert {sock.getsockname() for sock in got} == {held.sock.getsockname()}
    assert not any(sock.get_inheritable() for sock in got)
    for sock in got:
        sock.close()
    del got
    await until(lambda: descriptors() <= before)


async def test_what_is_kept_goes_with_it(folder: Path) -> None:
    kept = [b"one"]
    with opened("127.0.0.1", 0) as sock:
        handover = Handover(sock, str(folder / "http"), lambda: kept[0])
        before = descriptors()
        for content in (b"one", b"two" * 100_000, b""):
            kept[0] = content
            got, found = await receive(str(folder / "http"))
            assert found == content and got.getsockname() == sock.getsockname()
            got.close()
        await until(lambda: descriptors() <= before)
        handover.close()


async def test_nobody_gives(folder: Path, held: Held) -> None:
    with pytest.raises(Hindered, match="tether up"):
        await receive(str(folder / "nobody"))
    held.handover.close()
    held.handover.close()
    with pytest.raises(Hindered):
        await receive(held.path)
    silent = Listener(str(folder / "silent"))
    try:
        with pytest.raises(Hindered, match="not within"):
            await receive(str(folder / "silent"), 0.1)
    finally:
        silent.socket.close()


async def test_what_is_given_must_listen(folder: Path) -> None:
    with socket.socket() as other:
        handover = Handover(other, str(folder / "http"))
        before = descriptors()
        with pytest.raises(Hindered, match="no listening socket"):
            await receive(str(folder / "http"))
        await until(lambda: descriptors() <= before)
        handover.close()


async def test_another_user_gets_nothing(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "uids", lambda _: frozenset({os.geteuid() + 1}))
    with pytest.raises(Hindered, match="refused"):
        await receive(held.path)
