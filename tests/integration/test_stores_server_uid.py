"""Whose the embedded PostgreSQL is where root runs the node, and who gets at it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from actors.stores import embedded as module
from actors.stores import postmaster, server_uid
from actors.stores.database import connect
from actors.stores.database_cluster import binaries
from actors.stores.embedded import Embedded
from actors.stores.server_uid import NOBODY, RANGES, Account
from actors.stores.serveruser import ServerUser, choose

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def server(folder: Path) -> AsyncIterator[Embedded]:
    folder.chmod(0o711)
    made = Embedded(folder / "pg", folder / "s")
    yield made
    await made.stop()


async def value(dsn: str, statement: str) -> object:
    connection = await connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def as_nobody(tries: dict[str, Callable[[], object]]) -> dict[str, str]:
    """What comes of each of `tries` in a process of uid and gid 65534: "done", or the error."""
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        found = {}
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            for name, attempt in tries.items():
                try:
                    attempt()
                    found[name] = "done"
                except OSError as error:
                    found[name] = type(error).__name__
            os.write(into, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as said:
        answer: dict[str, str] = json.loads(said.read())
    os.waitpid(child, 0)
    return answer


async def test_a_process_of_nobody_neither_reads_nor_writes_nor_connects(server: Embedded):
    if os.geteuid() != 0:
        return  # only root could be nobody
    await server.start()
    pid = server.running()
    assert pid is not None
    cluster, place = server.cluster, str(server.socket_dir / ".s.PGSQL.5432")
    tries: dict[str, Callable[[], object]] = {
        "read": (cluster / "PG_VERSION").read_text,
        "list": lambda: list(cluster.iterdir()),
        "list the folder": lambda: list(server.data_dir.iterdir()),
        "rewrite who may connect": lambda: (cluster / "pg_hba.conf").write_text(
            "local all all trust"
        ),
        "rewrite it where it counts": lambda: (server.data_dir / "hba.conf").write_text("trust"),
        "read the password": (server.data_dir / "password").read_text,
        "connect": lambda: socket.socket(socket.AF_UNIX).connect(place),
        "make it read that again": lambda: os.kill(pid, 1),
        "look at its memory": Path(f"/proc/{pid}/mem").read_bytes,
        "go by its folder": lambda: list(Path(f"/proc/{pid}/cwd").iterdir()),
    }
    assert as_nobody(tries) == dict.fromkeys(tries, "PermissionError")


async def test_a_cluster_that_an_earlier_release_gave_to_nobody_is_taken_from_him(
    server: Embedded, monkeypatch: pytest.MonkeyPatch
):
    """While its server runs, and with an access file that lets everybody in."""
    if os.geteuid() != 0:
        return
    with monkeypatch.context() as patch:
        patch.setattr(module, "choose", lambda *_: ServerUser(Account(NOBODY, NOBODY)))
        server.data_dir.mkdir()
        server.socket_dir.mkdir()
        for folder in (server.data_dir, server.socket_dir):
            folder.chmod(0o711)
        await server.start()
        await value(server.dsn, "CREATE TABLE kept AS SELECT 42 AS it")
        server.release()
    before = server.running()
    assert before is not None
    assert Path(f"/proc/{before}").stat().st_uid == NOBODY
    (server.cluster / "pg_hba.conf").write_text("local all all trust\n")

    successor = Embedded(server.data_dir, server.socket_dir)
    try:
        await successor.start()
        now = successor.running()
        assert now not in (None, before)
        uid = Path(f"/proc/{now}").stat().st_uid
        assert uid not in (0, NOBODY)
        everything = [successor.cluster, *successor.cluster.rglob("*")]
        assert {path.lstat().st_uid for path in everything} == {uid}
        assert await value(successor.dsn, "SELECT it FROM kept") == 42
        wrong = f"{successor.dsn.split('&passfile')[0]}&password=wrong"
        with pytest.raises(Exception, match="password authentication failed"):
            await connect(wrong)
    finally:
        await successor.stop()


async def test_a_number_is_nobody_elses(server: Embedded, folder: Path):
    if os.geteuid() != 0:
        return
    program, folders = binaries() / "postgres", (server.data_dir, server.socket_dir)
    for one in folders:
        one.mkdir()
    first = choose(folders, program, server.cluster).account
    assert first is not None
    assert any(first.uid in numbers for numbers in RANGES)
    assert choose(folders, program, server.cluster).account == first, "the same at each start"
    other = choose(folders, program, folder / "elsewhere").account
    assert other != first
    stranger = await asyncio.to_thread(
        subprocess.Popen, ["/bin/sleep", "600"], user=first.uid, group=first.gid, extra_groups=[]
    )
    try:
        second = choose(folders, program, server.cluster).account
        assert second is not None
        assert second.uid != first.uid
        # Whose cluster it is says which number it was, and that is given up as well.
        server.cluster.mkdir()
        os.chown(server.cluster, first.uid, first.gid)
        assert choose(folders, program, server.cluster).account == second
    finally:
        stranger.kill()
        stranger.wait()
    assert choose(folders, program, server.cluster).account == first
    server.cluster.rmdir()


async def test_its_own_server_does_not_count_as_somebody_else(server: Embedded):
    if os.geteuid() != 0:
        return
    await server.start()
    pid = server.running()
    owner = server.cluster.stat().st_uid
    server.release()
    successor = Embedded(server.data_dir, server.socket_dir)
    await successor.start()
    try:
        assert successor.running() == pid
        assert server.cluster.stat().st_uid == owner
    finally:
        await successor.stop()


async def test_links_that_an_owner_has_left_lead_nobody_astray(folder: Path):
    if os.geteuid() != 0:
        return
    cluster, outside = folder / "cluster", folder / "outside"
    (cluster / "base").mkdir(parents=True)
    (cluster / "pg_tblspc").mkdir()
    outside.mkdir()
    (outside / "file").touch()
    (cluster / "base" / "link").symlink_to(outside / "file")
    (cluster / "base" / "folder").symlink_to(outside)
    account = Account(RANGES[0][0], RANGES[0][0])
    server_uid.hand_over(cluster, account)
    assert cluster.stat().st_uid == (cluster / "base" / "link").lstat().st_uid == account.uid
    assert outside.stat().st_uid == (outside / "file").stat().st_uid == 0
    (cluster / "pg_tblspc" / "1").symlink_to(outside)
    with pytest.raises(ValueError, match="chown -R"):
        server_uid.hand_over(cluster, account)


async def test_the_server_knows_no_secret_of_our_environment(
    server: Embedded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-it")
    monkeypatch.setenv("TETHER_DSN", "nor-this")
    await server.start()
    pid = server.running()
    assert pid is not None
    assert postmaster.works_in(pid, server.cluster)
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"not-for-it" not in environ
    assert b"nor-this" not in environ
