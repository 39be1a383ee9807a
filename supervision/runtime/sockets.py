"""Unix sockets of a node: their paths, listening, connecting, and who is at the other end."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from supervision.runtime.address import Address

BACKLOG: Final = 4096  # Linux cuts it to net.core.somaxconn
_PAUSE: Final = 0.005  # seconds between attempts on a listener whose backlog is full
_SUN_PATH: Final = 107  # bytes of a path that fit into sockaddr_un, see unix(7)
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


def fresh_name() -> str:
    """The socket name of this process: its pid, and something that no other ever had."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def socket_path(run_dir: str, address: Address) -> str:
    """
    Raises:
        ValueError: the path is longer than the kernel allows.
    """
    path = f"{run_dir}/{address.node}/{address.name}"
    if len(os.fsencode(path)) > _SUN_PATH:
        raise ValueError(
            f"the socket path {path!r} has {len(os.fsencode(path))} bytes and the kernel allows "
            f"{_SUN_PATH}: choose a shorter run directory or node id"
        )
    return path


class Listener:
    """A bound socket in the file system, in a folder that only its owner may enter."""

    def __init__(self, path: str, *, foreign: bool = True) -> None:
        """Listens at `path`, over the remains of a process that was killed. Only root may use
        the folder of another user, and only if `foreign`: it is a guest there.

        Raises:
            PermissionError: the folder belongs to somebody else, or others may enter it.
            OSError: the folder can't be made; with EADDRINUSE, somebody listens there.
        """
        self.path = Path(path)
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
        if owner != os.geteuid() and not (foreign and os.geteuid() == 0):
            raise PermissionError(
                f"{folder} belongs to user {owner}: remove it, or choose another run directory"
            )
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            # Not shut here: whoever made it may share it for a reason, and it may be anything.
            raise PermissionError(
                f"{folder} is open to other users: chmod 700 it, or choose another run directory"
            )
        self._owner = owner
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if listens(path):
                raise OSError(errno.EADDRINUSE, "another process listens there", path)
            self.path.unlink(missing_ok=True)
            self.socket.bind(path)
            self.socket.listen(BACKLOG)
            self.socket.setblocking(False)
            self._inode = self.path.stat().st_ino
        except BaseException:
            self.socket.close()
            raise

    def uids(self) -> frozenset[int]:
        """The users whose processes may connect: ours, root, and the owner of the folder (who
        is another one only when root looks at a node)."""
        return frozenset({os.geteuid(), 0, self._owner})

    def sweep(self, pid: int) -> None:
        """Removes what a process of this node left behind that was killed."""
        for path in self.path.parent.glob(f"{pid}-*"):
            path.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Takes the socket out of the file system, unless a successor has taken its place."""
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass


def listens(path: str) -> bool:
    """Does a process listen at `path`?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
        return True


async def connected(path: str) -> socket.socket:
    """A socket that is connected to `path`; waits while the listener's backlog is full.

    Raises:
        OSError: nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # EAGAIN, which asyncio's sock_connect would take for "in progress".
                await asyncio.sleep(_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def credentials(transport: asyncio.BaseTransport) -> tuple[int, int] | None:
    """pid and uid of the process at the other end, as the kernel says; None if the socket is no
    Unix socket."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return credentials_of(sock)


def credentials_of(sock: socket.socket) -> tuple[int, int]:
    """pid and uid of the process at the other end of a Unix socket."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid
