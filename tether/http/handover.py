"""A listening socket, handed from the process that holds it to those that accept from it.

`tether up` binds and listens once, and gives each door that asks a descriptor of that one socket
(SCM_RIGHTS, unix(7)); with it, where there is one, what it keeps for them, in a file in memory
(memfd_create(2)): the certificate that was good last. So the port outlives every door: when one
ends, the others accept what waits, or its successor does, and nobody has to wait for a port to be
let go. See docs/adr/0022-listening-socket.md.

::

    door  ──connect──▶ PATH           a Unix socket in the node's folder, which is 0700
    door  ◀── b"1" + descriptors ─    if the kernel says that it is of the same user
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from struct import Struct
from typing import BinaryIO, Final

from supervision.errors import Hindered
from supervision.runtime.sockets import Listener, connected, credentials_of
from supervision.telemetry.bounded_log import BoundedLog

RECEIVE_S: Final = 5.0  # in which a door must have got it
_VERSION: Final = b"1"
_INT: Final = Struct("i")  # as a descriptor travels
_MOST: Final = 2  # descriptors in one message
MAX_KEPT_BYTES: Final = 4 << 20
_AT_ONCE: Final = 64  # that are answered in one turn of the loop
_PAUSE_S: Final = 0.1  # after an accept that failed, for want of descriptors

heard = BoundedLog(__name__)


class Handover:
    """The giving end, on a loop that runs. Wherever `sock` comes from, it must listen. It waits for
    nobody: who asks gets all there is to get at once, so there is nothing to time out."""

    def __init__(
        self, sock: socket.socket, path: str, kept: Callable[[], bytes] | None = None
    ) -> None:
        """`kept` gives what goes with it.

        Raises:
            OSError: nobody can listen at `path`.
        """
        self._sock = sock
        self._kept = kept
        self._listener = Listener(path, foreign=False)
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Give it to nobody any more. `sock` stays as it is. Safe to call twice."""
        if self._listener.socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.socket)
        self._listener.withdraw()
        self._listener.socket.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener.socket, self._answer)

    def _answer(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                asker, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                heard.warning("can't take who asks for the listening socket", "", error=str(error))
                self._loop.remove_reader(self._listener.socket)
                self._pause = self._loop.call_later(_PAUSE_S, self._resume)
                return
            with asker:
                self._give(asker)

    def _give(self, asker: socket.socket) -> None:
        pid, uid = credentials_of(asker)
        if uid not in self._listener.uids():
            heard.warning("refused the listening socket to another user", uid, user=uid, asker=pid)
            return
        try:
            asker.setblocking(False)  # a byte always fits into what nobody has written to
            if self._kept is None:
                socket.send_fds(asker, [_VERSION], [self._sock.fileno()])
                return
            with _in_memory(self._kept()) as kept:
                socket.send_fds(asker, [_VERSION], [self._sock.fileno(), kept.fileno()])
        except OSError as error:  # the asker is gone, or too many descriptors are under way
            heard.warning(
                "the listening socket was not handed over", uid, error=str(error), asker=pid
            )


async def receive(path: str, timeout_s: float = RECEIVE_S) -> tuple[socket.socket, bytes]:
    """The listening socket that is handed over at `path`, non-blocking, and what goes with it, if
    anything does. To close it closes it here alone; never `shutdown` it, which would end it for
    all.

    Raises:
        Hindered: it isn't handed over; nobody is there, or not within `timeout_s` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            with await connected(path) as giver:
                await _readable(giver)
                said, descriptors = _taken(giver)
    except (OSError, ValueError, TimeoutError) as error:
        why = str(error) or f"not within {timeout_s:g} s"
        raise Hindered(
            f"the listening socket isn't handed over at {path} ({why}); look whether `tether up` "
            "still runs and isn't stopped"
        ) from None
    if not descriptors:
        raise Hindered(
            f"the listening socket is refused at {path}; the log of `tether up` says why"
        )
    sock = socket.socket(fileno=descriptors[0])
    kept = b"".join(map(_read, descriptors[1:]))
    if said != _VERSION or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise Hindered(
            f"what is handed over at {path} is no listening socket; start the node again"
        )
    sock.setblocking(False)
    return sock, kept


def _taken(giver: socket.socket) -> tuple[bytes, list[int]]:
    """A message and the descriptors with it. `socket.recv_fds` of Python 3.11 loses its flags, and
    a descriptor without close-on-exec would go on to whatever this process starts."""
    said, ancillary, _, _ = giver.recvmsg(
        len(_VERSION), socket.CMSG_SPACE(_MOST * _INT.size), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = [
        number
        for level, kind, content in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (number,) in _INT.iter_unpack(content[: len(content) // _INT.size * _INT.size])
    ]
    return said, descriptors


def _in_memory(content: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("handover", os.MFD_CLOEXEC), "w+b")
    file.write(content)
    file.flush()
    return file


def _read(descriptor: int) -> bytes:
    """All of such a file; whoever else holds it may read it too, so its position is left alone."""
    try:
        return os.pread(descriptor, MAX_KEPT_BYTES, 0)
    finally:
        os.close(descriptor)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    something: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not something.done():
            something.set_result(None)

    loop.add_reader(sock, ready)
    try:
        await something
    finally:
        loop.remove_reader(sock)
