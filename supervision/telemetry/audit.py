"""The audit log, who had a node do what, and when: a file to which lines are only ever added.

Each writing command is written down before it is done, and again with what came of it. A line is
one JSON object, and on the disk (fsync) before the command begins. When the file has grown to
`max_bytes` it becomes `NAME.1`, and that `NAME.2`, up to `kept` of them; the oldest is dropped.
Any number of shells may write at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

NAME: Final = "audit.jsonl"
HOME: Final = "TETHER_NODE_HOME"  # where `tether up` says which directory is the node's
MAX_BYTES: Final = 4 << 20
KEPT: Final = 4
BEGINS: Final = "begins"
_MAX_WORD: Final = 4096  # characters of one argument that are kept
_MAX_WORDS: Final = 64


class Who(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator: the user of a process of this machine, or the name in a certificate."""

    uid: int = -1
    user: str = ""
    pid: int = 0
    certificate: str = ""

    @classmethod
    def here(cls) -> Who:
        """Whoever runs this process."""
        uid = os.getuid()
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = ""
        return cls(uid=uid, user=user, pid=os.getpid())


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`outcome` is `begins`, `done`, or why not; both lines of a command share an `id`."""

    id: str
    at: datetime
    who: Who
    node: str
    command: str
    arguments: tuple[str, ...]
    outcome: str


class Unwritable(Exception):
    """The audit log can't be written, so nothing may be done; says why, and what to do."""


class Audit:
    """The audit log in the folder `home`."""

    def __init__(
        self,
        home: Path,
        who: Who,
        node: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_bytes: int = MAX_BYTES,
        kept: int = KEPT,
    ) -> None:
        self.path = home / NAME
        self.who = who
        self._node = node
        self._now = now
        self._max_bytes = max_bytes
        self._kept = kept

    def begins(self, command: str, arguments: Sequence[str]) -> Callable[[str], None]:
        """Writes that a command begins; the result writes what came of it.

        Raises:
            Unwritable: the file can't be written; the command must not be done.
        """
        id_ = uuid.uuid4().hex
        self.write(id_, command, arguments, BEGINS)
        return lambda outcome: self.write(id_, command, arguments, outcome)

    def write(self, id: str, command: str, arguments: Sequence[str], outcome: str) -> None:
        """One line.

        Raises:
            Unwritable: the file can't be written.
        """
        kept = tuple(a if len(a) <= _MAX_WORD else f"{a[:_MAX_WORD]}…" for a in arguments)
        self._write(
            AuditEntry(
                id=id,
                at=self._now(),
                who=self.who,
                node=self._node,
                command=command,
                arguments=kept[:_MAX_WORDS],
                outcome=outcome[:_MAX_WORD],
            )
        )

    def _write(self, entry: AuditEntry) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        try:
            with self._locked():
                self._rotate(len(line))
                fresh = not self.path.exists()
                number = private(self.path, os.O_WRONLY | os.O_APPEND)
                try:
                    _append(number, line)
                finally:
                    os.close(number)
                if fresh:
                    _sync_folder(self.path.parent)
        except OSError as error:
            raise Unwritable(
                f"the audit log {self.path} can't be written ({error.strerror}), so nothing is "
                "done; see to its folder and its disk"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all shells of this folder."""
        number = private(self.path.with_suffix(".lock"), os.O_RDWR)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)

    def _rotate(self, more: int) -> None:
        try:
            there = self.path.stat().st_size
        except FileNotFoundError:
            return
        if not there or there + more <= self._max_bytes:
            return
        for number in range(self._kept, 0, -1):
            older = self.path if number == 1 else Path(f"{self.path}.{number - 1}")
            if older.exists():
                older.replace(f"{self.path}.{number}")


def home() -> Path | None:
    """The folder of the audit log of the node that this process is of; None if it keeps none."""
    found = os.environ.get(HOME)
    return Path(found) if found else None


def private(path: Path, flags: int) -> int:
    """Opens a file that only the owner of its folder may read or write, and makes it if need be.
    A superuser who makes one leaves it to that owner.

    Raises:
        OSError: it can't be opened, or belongs to somebody else.
    """
    number = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    there = os.fstat(number)
    if there.st_mode & 0o077:
        os.fchmod(number, 0o600)
    owner = path.parent.stat()
    if os.geteuid() == 0 and there.st_uid != owner.st_uid:
        os.fchown(number, owner.st_uid, owner.st_gid)
    return number


def _append(number: int, line: bytes) -> None:
    """All of `line` on the disk, or none of it: half a line would spoil the next one.

    Raises:
        OSError: there is no room.
    """
    before = os.fstat(number).st_size
    try:
        if os.write(number, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(number)
    except OSError:
        os.ftruncate(number, before)
        raise


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read(path: Path) -> list[AuditEntry]:
    """All entries of one file, oldest first."""
    return [msgspec.json.decode(line, type=AuditEntry) for line in path.read_bytes().splitlines()]
