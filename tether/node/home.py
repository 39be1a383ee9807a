"""The directory of a node: who holds it, what layout it has, and what the node says of itself.

::

    DATA_DIR/
    ├── layout       the version of this layout
    ├── lock         held by `flock` while a node runs; the lock is the truth, a pid may lie
    ├── node.json    how other commands reach the node (readable by its owner only)
    ├── run/         Unix sockets, when their paths are short enough; else a private directory
    │                under the system's temporary one
    ├── metrics/     what all processes count, for prometheus_client's multiprocess mode
    └── …            what the actors keep (postgres)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from supervision.unreadable import UNREADABLE

LAYOUT: Final = "1"
MAX_SOCKET_PATH: Final = 107  # sun_path holds 108 bytes with its end, unix(7)
LONGEST_NAME: Final = 24  # bytes of a socket's own name below run dir and node id
_TEMPORARY_PREFIX: Final = "tether-"
_ENTER_ONLY: Final = 0o711  # PostgreSQL may run as another user, and has its sockets below


class HomeUnusable(Exception):
    """The data directory cannot be used; the sentence says why, and what to do."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """What a running node tells the other commands. `root` is the address of its root
    supervisor, `dsn` leads to its database. `allow_eval` lets `tether shell` run Python."""

    pid: int
    node: str
    run_dir: str
    admin_port: int
    root: str = ""
    url: str = ""
    dsn: str = ""
    ready: bool = False
    allow_eval: bool = False


class Home:
    """A data directory that this process holds until `close`."""

    def __init__(self, path: Path, lock: int, run_dir: Path) -> None:
        self.path = path
        self.run_dir = run_dir
        self._lock = lock

    @classmethod
    def claim(
        cls, path: Path, node: str, end: Callable[[NodeState | None], object] = lambda _: None
    ) -> Home:
        """Take the directory at `path` for `node`, making it if need be, and clear away what a
        killed node has left: its sockets and its counters. `end` is to end its processes first,
        which still need them, and gets what it said last.

        Raises:
            HomeUnusable: another node holds it, another release wrote it, it holds something
                else, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_layout(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnusable(
                f"{path} cannot be used as data directory ({error.strerror}); "
                "set node.data_dir to one that you may write"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            state = read_state(path)
            who = f"a node (pid {state.pid})" if state else "a node"
            raise HomeUnusable(
                f"{who} runs on {path} already; stop it with `tether down`, "
                "or give this one another node.data_dir"
            ) from None
        try:
            if not (path / "layout").exists():
                _write(path / "layout", f"{LAYOUT}\n".encode(), 0o644)
            remains = read_state(path)
            end(remains)
            if remains:
                _remove_temporary(Path(remains.run_dir))
                (path / "node.json").unlink()
            shutil.rmtree(path / "run", ignore_errors=True)
            shutil.rmtree(path / "metrics", ignore_errors=True)
            (path / "metrics").mkdir(mode=0o700)
            return cls(path, lock, _run_dir(path, node))
        except OSError as error:
            os.close(lock)
            raise HomeUnusable(
                f"{path} cannot be written ({error.strerror}); see to its disk, or set "
                "node.data_dir to another one"
            ) from None
        except BaseException:
            os.close(lock)
            raise

    def tell(self, state: NodeState) -> None:
        """Write what other commands need, in one step.

        Raises:
            OSError: it can't be written; what was there stands.
        """
        _write(self.path / "node.json", msgspec.json.encode(state), 0o600)

    def close(self) -> None:
        """Let go of it; what only a running node needs goes as well. Safe to call twice."""
        if self._lock < 0:
            return
        (self.path / "node.json").unlink(missing_ok=True)
        shutil.rmtree(self.path / "metrics", ignore_errors=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def read_state(path: Path) -> NodeState | None:
    """What the node of this data directory said last; None if nothing, or nothing readable."""
    try:
        return msgspec.json.decode((path / "node.json").read_bytes(), type=NodeState)
    except (OSError, *UNREADABLE):
        return None


def is_held(path: Path) -> bool:
    """Does a living `tether up` hold this data directory?"""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def running(path: Path) -> NodeState | None:
    """The state of the node that runs on this data directory, if one does."""
    return read_state(path) if is_held(path) else None


def _write(path: Path, content: bytes, mode: int) -> None:
    """A file, whole or as it was before.

    Raises:
        OSError: it can't be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _check_layout(path: Path) -> None:
    layout = path / "layout"
    if layout.is_file():
        found = layout.read_text().strip()
        if found != LAYOUT:
            raise HomeUnusable(
                f"{path} has layout {found[:20]!r}, and this release reads {LAYOUT!r}; start the "
                "release that wrote it, or set node.data_dir to another directory"
            )
    elif any(entry.name not in ("lock", "layout.new") for entry in path.iterdir()):
        raise HomeUnusable(
            f"{path} holds something else than a node; set node.data_dir to an empty directory"
        )


def _run_dir(path: Path, node: str) -> Path:
    """A directory whose sockets have paths that fit; nobody else may list it, and what lies in it
    is private itself."""
    below = len(f"/{node}/") + LONGEST_NAME  # those of PostgreSQL are shorter
    near = path / "run"
    if len(os.fsencode(near)) + below <= MAX_SOCKET_PATH:
        near.mkdir()
        near.chmod(_ENTER_ONLY)
        return near
    far = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
    if len(os.fsencode(far)) + below > MAX_SOCKET_PATH:
        far.rmdir()
        raise HomeUnusable(
            f"paths of Unix sockets below {path} and below {far.parent} are too long; "
            "set node.data_dir or TMPDIR to a shorter path, or shorten node.id"
        )
    far.chmod(_ENTER_ONLY)
    return far


def _remove_temporary(run_dir: Path) -> None:
    """Remove the run directory of a killed node, if it is one of ours outside its home."""
    ours = run_dir.name.startswith(_TEMPORARY_PREFIX) and run_dir.parent == Path(
        tempfile.gettempdir()
    )
    if ours and run_dir.is_dir() and run_dir.stat().st_uid == os.getuid():
        shutil.rmtree(run_dir, ignore_errors=True)
