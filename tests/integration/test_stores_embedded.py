"""The embedded PostgreSQL as whoever runs the tests: starts, kills, left-overs, bad folders."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from actors.stores import embedded as module
from actors.stores import postmaster
from actors.stores.database import connect
from actors.stores.database_cluster import binaries
from actors.stores.embedded import Embedded
from actors.stores.server_uid import RANGES
from actors.stores.serveruser import EmbeddedError, choose
from tests.support.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A data directory as initdb leaves it, made once and copied."""
    path = Path(tempfile.mkdtemp(prefix="tether-"))
    made = Embedded(path / "pg", path / "s")

    async def begin_and_end() -> None:
        await made.start()
        await made.stop()

    asyncio.run(begin_and_end())
    yield path
    shutil.rmtree(path)


@pytest_asyncio.fixture
async def fresh(folder: Path) -> AsyncIterator[Embedded]:
    """A server that was never started."""
    made = Embedded(folder / "pg", folder / "s")
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def server(pristine: Path, fresh: Embedded) -> Embedded:
    """A server that was started once, in another place. Not the shared one: it is killed here."""
    folder = fresh.data_dir.parent
    folder.chmod(pristine.stat().st_mode & 0o777)
    await asyncio.to_thread(
        subprocess.run, ["cp", "-a", str(pristine / "pg"), str(folder)], check=True
    )
    return fresh


async def value(dsn: str, statement: str) -> object:
    connection = await connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def write(dsn: str, statement: str) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def inode_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_it_starts_keeps_what_was_written_and_stops(server: Embedded) -> None:
    assert server.running() is None
    dsn = await server.start()
    assert dsn == server.dsn
    pid = server.running()
    assert pid is not None
    await write(dsn, "CREATE TABLE kept AS SELECT 42 AS it")
    await server.stop()
    assert server.running() is None
    assert not Path(f"/proc/{pid}").exists()
    assert list(server.socket_dir.iterdir()) == []
    await server.stop()  # safe to see twice
    await server.start()
    assert server.running() not in (None, pid)
    assert await value(dsn, "SELECT it FROM kept") == 42


async def test_it_is_durable_and_listens_on_nothing_but_its_socket(server: Embedded) -> None:
    dsn = await server.start()
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert await value(dsn, f"SHOW {setting}") == "on"
    assert await value(dsn, "SHOW listen_addresses") == ""
    assert await value(dsn, "SHOW password_encryption") == "scram-sha-256"
    pid = server.running()
    ours = {fd.readlink().name for fd in Path(f"/proc/{pid}/fd").iterdir()}
    sockets = {name[8:-1] for name in ours if name.startswith("socket:")}
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        assert not sockets & {line.split()[9] for line in lines}


async def test_nobody_gets_in_without_the_password(server: Embedded) -> None:
    dsn = await server.start()
    assert "password=" not in dsn
    secret = (server.data_dir / "password").read_text()
    assert len(secret) >= 43
    assert secret not in dsn
    assert inode_mode(server.data_dir / "password") == 0o600
    assert inode_mode(server.data_dir / "pgpass") == 0o600
    assert inode_mode(server.cluster) == 0o700
    assert inode_mode(server.data_dir) in (0o700, 0o710)
    for password in ("", "wrong"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn.split("&passfile")[0], password=password, passfile="/nowhere")


async def test_a_killed_server_comes_back_with_all_that_was_committed(server: Embedded) -> None:
    dsn = await server.start()
    await write(dsn, "CREATE TABLE kept (it integer)")
    for n in range(3):
        await write(dsn, f"INSERT INTO kept VALUES ({n})")
        pid = server.running()
        assert pid is not None
        ended = asyncio.ensure_future(server.ended())
        await asyncio.sleep(0)
        assert not ended.done()
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(ended, PATIENCE_S)
        assert server.running() is None
        await server.start()
        assert await value(dsn, "SELECT count(*) FROM kept") == n + 1


async def test_a_server_whose_manager_was_killed_is_adopted(folder: Path) -> None:
    script = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from actors.stores.embedded import Embedded\n"
        "folder = Path(sys.argv[1])\n"
        "made = Embedded(folder / 'pg', folder / 's')\n"
        "asyncio.run(made.start())\n"
        "print(made.running(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 (it returns before the child has done anything)
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE
    ) as manager:
        assert manager.stdout is not None
        line = await asyncio.to_thread(manager.stdout.readline)
        pid = int(line)
        server = Embedded(folder / "pg", folder / "s")
        try:
            module_patience = module.LOCK_S
            module.LOCK_S = 0.1
            try:
                with pytest.raises(EmbeddedError, match=f"managed by another.*pid {manager.pid}"):
                    await server.start()
                with pytest.raises(EmbeddedError, match="managed by another"):
                    await server.stop()
            finally:
                module.LOCK_S = module_patience
            manager.kill()
            manager.wait()
            dsn = await server.start()
            assert server.running() == pid  # the very same: nobody's statement was disturbed
            assert await value(dsn, "SELECT 1") == 1
        finally:
            manager.kill()
            await server.stop()
        assert not postmaster.works_in(pid, server.cluster)


async def test_a_server_is_stopped_by_one_who_did_not_start_it(server: Embedded) -> None:
    await server.start()
    pid = server.running()
    server.release()
    other = Embedded(server.data_dir, server.socket_dir)
    assert other.running() == pid
    await other.stop()
    assert server.running() is None


async def test_a_server_with_other_sockets_is_started_anew(server: Embedded, folder: Path) -> None:
    await server.start()
    pid = server.running()
    server.release()
    moved = Embedded(server.data_dir, folder / "elsewhere")
    dsn = await moved.start()
    assert moved.running() not in (None, pid)
    assert await value(dsn, "SELECT 1") == 1
    await moved.stop()


async def test_lock_files_that_name_a_stranger_are_cleared(server: Embedded) -> None:
    """After a reboot or in a new container the pid of the dead server belongs to anyone."""
    await server.start()
    await server.stop()
    stranger = os.getpid()  # and it lives
    lines = [str(stranger), str(server.cluster), "1", "5432", str(server.socket_dir), "", "", ""]
    (server.cluster / "postmaster.pid").write_text("\n".join(lines))
    (server.socket_dir / ".s.PGSQL.5432.lock").write_text("\n".join(lines))
    assert server.running() is None
    dsn = await server.start()
    assert await value(dsn, "SELECT 1") == 1
    assert server.running() != stranger


async def test_a_kill_in_the_middle_of_initdb_is_made_good(fresh: Embedded) -> None:
    server = fresh
    half = server.data_dir / "cluster.new-x1y2"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    (server.data_dir / "password.new").write_text("left over")
    dsn = await server.start()
    assert await value(dsn, "SELECT 1") == 1
    assert not half.exists()
    assert not (server.data_dir / "password.new").exists()


async def test_a_folder_of_another_version_is_refused_untouched(server: Embedded) -> None:
    await server.start()
    await server.stop()
    (server.cluster / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"is of PostgreSQL 17, and this .* PostgreSQL 18; "):
        await server.start()
    (server.cluster / "PG_VERSION").write_text("18\n")
    await server.start()  # the refusal left no lock behind


async def test_a_folder_that_is_no_cluster_is_refused(fresh: Embedded) -> None:
    server = fresh
    server.cluster.mkdir(parents=True)
    (server.cluster / "letter.txt").write_text("keep me")
    with pytest.raises(EmbeddedError, match="no PostgreSQL data directory; move it away"):
        await server.start()
    assert (server.cluster / "letter.txt").exists()


async def test_a_folder_that_is_a_file_is_refused_in_a_sentence(fresh: Embedded) -> None:
    fresh.data_dir.write_text("not a directory")
    try:
        with pytest.raises(EmbeddedError, match=r"can't be used: .*File exists.*; see who owns"):
            await fresh.start()
    finally:
        fresh.data_dir.unlink()


async def test_two_managers_of_which_one_was_killed_in_a_launch_agree_on_one_server(
    server: Embedded,
) -> None:
    """The server that the first one launched has its lock file only after the second looked."""
    await server.start()
    pid = server.running()
    server.release()
    second = Embedded(server.data_dir, server.socket_dir)
    program = binaries() / "postgres"
    second._take_lock(1)
    try:
        await asyncio.to_thread(
            second._launch, second._user(program), program, time.monotonic() + PATIENCE_S
        )
        assert second.running() == pid
    finally:
        second.release()


async def test_a_lost_password_is_said_to_be_lost(server: Embedded) -> None:
    await server.start()
    await server.stop()
    (server.data_dir / "password").unlink()
    with pytest.raises(EmbeddedError, match=r"password file .* is missing"):
        await server.start()


async def test_sockets_of_another_server_are_left_alone(server: Embedded, folder: Path) -> None:
    dsn = await server.start()
    intruder = Embedded(folder / "other", server.socket_dir)
    try:
        with pytest.raises(
            EmbeddedError, match=f"used by another PostgreSQL .pid {server.running()}"
        ):
            await intruder.start()
    finally:
        await intruder.stop()
    assert await value(dsn, "SELECT 1") == 1


async def test_a_configuration_that_postgres_refuses_is_quoted(server: Embedded) -> None:
    await server.start()
    await server.stop()
    with (server.cluster / "postgresql.conf").open("a") as file:
        file.write("\nmax_wal_senders = nonsense\n")
    with pytest.raises(EmbeddedError, match=r"did not start: .*(max_wal_senders|contains errors)"):
        await server.start()
    assert server.running() is None


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(folder: Path) -> None:
    deep = folder / ("x" * 90)
    with pytest.raises(EmbeddedError, match="107 are allowed; choose a shorter run directory"):
        Embedded(folder / "pg", deep)
    assert list(folder.iterdir()) == []


async def test_the_log_is_cut_while_the_server_writes_it(
    server: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = await server.start()
    monkeypatch.setattr(module, "LOG_LIMIT", 10)
    server.trim()
    assert server.log.stat().st_size == 0
    older = server.log.with_suffix(".log.1")
    assert "ready to accept connections" in older.read_text()
    await write(dsn, "DO $$ BEGIN RAISE WARNING 'after the cut'; END $$")
    assert "after the cut" in server.log.read_text()
    assert "\0" not in server.log.read_text()


async def test_root_hands_the_server_to_someone_else(folder: Path) -> None:
    """Root does not run it as root, whether or not others can reach the folder; anyone else runs
    it himself. The uid is read off the server's own process."""
    for mode, name in ((0o711, "open"), (0o700, "closed")):
        base = folder / name
        base.mkdir(mode=mode)
        folder.chmod(0o711)
        server = Embedded(base / "pg", base / "s")
        try:
            await server.start()
            pid = server.running()
            status = Path(f"/proc/{pid}/status").read_text()
            uid = int(status.split("Uid:")[1].split()[0])
            capabilities = int(status.split("CapEff:")[1].split()[0], 16)
            if os.geteuid() != 0:
                assert uid == os.geteuid()
            elif mode == 0o700:
                assert uid == 0  # seen from here; in its own namespace it is 65534
                namespaces = [Path(f"/proc/{who}/ns/user").readlink() for who in ("self", pid)]
                assert namespaces[0] != namespaces[1]
                assert server.cluster.stat().st_uid == 0
            else:
                # One of its own, unless the checkout itself is out of its reach.
                assert uid == server.cluster.stat().st_uid
                assert uid == 0 or any(uid in numbers for numbers in RANGES)
            assert capabilities == 0
            await server.stop()
            await server.start()  # who owns it runs it again
        finally:
            await server.stop()


def test_a_cluster_of_someone_else_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, me = binaries() / "postgres", os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(EmbeddedError, match=f"belongs to uid {me}, .* runs as uid {me + 1};"):
            choose((folder,), program, folder)
    if me != 0:
        return  # only root could give a folder away
    closed = folder / "closed"
    cluster = closed / "cluster"
    cluster.mkdir(parents=True)
    closed.chmod(0o700)
    os.chown(cluster, 4242, 4242)
    with pytest.raises(EmbeddedError, match=r"belongs to uid 4242, who can't reach"):
        choose((closed,), program, cluster)


async def test_a_stopped_server_refuses_at_once(server: Embedded) -> None:
    dsn = await server.start()
    await server.stop()
    with pytest.raises(Exception, match="can't be reached"):
        await connect(dsn)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match=r"."):
        probe.connect(str(server.socket_dir / ".s.PGSQL.5432"))
