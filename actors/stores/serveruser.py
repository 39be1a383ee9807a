"""The user that runs the embedded PostgreSQL, which refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from actors.stores import server_uid
from actors.stores.server_uid import NOBODY, Account

NAMESPACE = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
_KEPT = frozenset({"PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "TETHER_NODE_HOME"})
"""What the server sees of our environment. The last says whose process it is."""


class EmbeddedError(RuntimeError):
    """An embedded server can't do what was asked; one sentence that says what to do."""


@dataclass(frozen=True)
class ServerUser:
    """How to start a program as a user whom PostgreSQL accepts.

    Attributes:
        account: to switch to before exec; None stays as we are.
        wrap: a command put in front.
    """

    account: Account | None = None
    wrap: tuple[str, ...] = ()

    @property
    def owner(self) -> Account:
        """Whose files it works with."""
        return self.account or Account(os.geteuid(), os.getegid())

    @property
    def named(self) -> ServerUser:
        """Who may run initdb, which refuses to be somebody without a name: this user, or nobody
        with this one's group. Other processes of nobody can't enter the folder in which it works,
        and, as they are of another group, can't trace it either (ptrace(2))."""
        if self.account is None:
            return self
        try:
            pwd.getpwuid(self.account.uid)
        except KeyError:
            return ServerUser(Account(NOBODY, self.account.gid))
        return self

    def popen(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        """Start `command` in a session of its own, with nothing secret of our environment in it."""
        who: dict[str, object] = {}
        if self.account is not None:
            account = self.account
            who = {"user": account.uid, "group": account.gid, "extra_groups": []}
        environ = {k: v for k, v in os.environ.items() if k in _KEPT}
        given: dict[str, object] = {"stdin": subprocess.DEVNULL, **who, **options}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*self.wrap, *command],
            env={**environ, "LC_ALL": "C"},
            start_new_session=True,
            **given,
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
        if os.geteuid() == 0:
            os.chown(path, self.owner.uid, self.owner.gid)

    def may_enter(self, folder: Path) -> None:
        """Let that user through `folder`, which stays ours, and nobody else."""
        if os.geteuid() == 0:
            os.chown(folder, 0, self.owner.gid)
        folder.chmod(0o710 if self.account is not None else 0o700)


def choose(folders: tuple[Path, ...], program: Path, cluster: Path) -> ServerUser:
    """The user for a server that runs `program` and works in `folders`, which it may enter then.

    A plain user runs it himself. Root gives it to a user of its own (`server_uid`) where that can
    reach program and folders, and otherwise runs it in a user namespace in which root is called
    65534 and may do nothing more than any owner of files. A `cluster` that somebody else was given
    is run by him. Whoever it is, `cluster` may have to be handed over to him.

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
    if owner is not None and not server_uid.is_ours(owner):
        given = ServerUser(Account(owner, cluster.stat().st_gid))
        if works(given, folders, program):
            return given
        raise EmbeddedError(
            f"the data directory {cluster} belongs to uid {owner}, who can't reach {program} and "
            "its own folder; let that user enter all folders above them (chmod o+x)"
        )
    for account in server_uid.accounts(cluster, owner):
        own = ServerUser(account)
        if works(own, folders, program):
            return own
    mapped = ServerUser(wrap=NAMESPACE)
    if works(mapped, folders, program):
        return mapped
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, no other user can reach {program} and {folders[0]}, "
        "and user namespaces are not to be had here; run Tether as a plain user, let others enter "
        "those folders (chmod o+x), or configure a PostgreSQL DSN"
    )


def works(user: ServerUser, folders: tuple[Path, ...], program: Path) -> bool:
    """Whether that user can enter the folders and run the program: tried, not deduced, since
    file modes don't tell of access lists, mount options and missing capabilities."""
    script = 'program=$1; shift; for f; do test -x "$f" || exit 9; done; exec "$program" --version'
    command = ["/bin/sh", "-c", script, "sh", str(program), *map(str, folders)]
    try:
        for folder in folders:
            user.may_enter(folder)
        return user.run(command, timeout_s=10)[0] == 0
    except OSError:  # in a namespace, such a number may not be there
        return False
