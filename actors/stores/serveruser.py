"""The user that runs the embedded PostgreSQL, which refuses to run as root."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534  # the uid that Linux itself gives to those it doesn't know
_NAMESPACE = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


class EmbeddedError(RuntimeError):
    """The embedded PostgreSQL can't do what was asked; one sentence that says what to do."""


@dataclass(frozen=True)
class ServerUser:
    """How to start a program as a user whom PostgreSQL accepts.

    Attributes:
        uid: to switch to before exec; None stays as we are.
        wrap: a command put in front.
    """

    uid: int | None = None
    wrap: tuple[str, ...] = ()

    def popen(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        """Start `command` in a session of its own, with none of our environment's PG* in it."""
        who: dict[str, object] = {}
        if self.uid is not None:
            who = {"user": self.uid, "group": self.uid, "extra_groups": []}
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*self.wrap, *command],
            stdin=subprocess.DEVNULL,
            env={**environ, "LC_ALL": "C"},
            start_new_session=True,
            **who,
            **options,
        )

    def run(self, command: list[str], *, timeout_s: float) -> tuple[int, str]:
        """Run `command` to its end: exit status and all that it said. A command that takes
        longer than `timeout_s` is killed, and its status is -9."""
        process = self.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        return process.returncode, said.decode(errors="replace").strip()

    def own(self, path: Path) -> None:
        """Give `path` to that user."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)


def choose(folders: tuple[Path, ...], program: Path, cluster: Path) -> ServerUser:
    """The user for a server that runs `program` and works in `folders`.

    Whoever owns a `cluster` that exists runs it. For a new one: a plain user runs it himself;
    root gives it to nobody (65534) where that user can reach program and folders, and otherwise
    runs it in a user namespace in which root is called 65534 and may do nothing more than any
    owner of files.

    Raises:
        EmbeddedError: the cluster belongs to someone else, or root has neither way.
    """
    me = os.geteuid()
    owner = cluster.stat().st_uid if cluster.exists() else None
    if me != 0:
        if owner not in (None, me):
            raise EmbeddedError(
                f"the data directory {cluster} belongs to uid {owner}, and Tether runs as uid "
                f"{me}; run it as that user, or choose another directory"
            )
        return ServerUser()
    switched = ServerUser(uid=owner or NOBODY)
    if owner != 0 and _works(switched, folders, program):
        return switched
    if owner:
        raise EmbeddedError(
            f"the data directory {cluster} belongs to uid {owner}, who can't reach {program} and "
            "its own folder; let that user enter all folders above them (chmod o+x)"
        )
    mapped = ServerUser(wrap=_NAMESPACE)
    if _works(mapped, folders, program):
        return mapped
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, uid {NOBODY} can't reach {program} and {folders[0]}, "
        "and user namespaces are not to be had here; run Tether as a plain user, let others enter "
        "those folders (chmod o+x), or configure a PostgreSQL DSN"
    )


def _works(user: ServerUser, folders: tuple[Path, ...], program: Path) -> bool:
    """Whether that user can enter the folders and run the program: tried, not deduced, since
    file modes don't tell of access lists, mount options and missing capabilities."""
    script = 'program=$1; shift; for f; do test -x "$f" || exit 9; done; exec "$program" --version'
    command = ["/bin/sh", "-c", script, "sh", str(program), *map(str, folders)]
    try:
        return user.run(command, timeout_s=10)[0] == 0
    except OSError:
        return False
