"""`tether db roles`: the users of a configured PostgreSQL, and the file with their passwords."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from actors.stores.database import answers, connect, migrate
from actors.stores.database_cluster import write_private
from actors.stores.database_roles import DatabaseRole, existing, grant, granting, make, making
from tether.cli.failure import CommandFailed
from tether.config import Config


def roles(
    config: Config, *, owner: str, passfile: Path | None, renew: bool, only_print: bool
) -> int:
    """Make the users, grant, and write their passwords down; or print how.

    Raises:
        CommandFailed: there is no DSN, its user has not the right, or the file can't be written.
        TetherError: PostgreSQL can't be reached, or its schema is of a later release.
    """
    if only_print:
        print(_printed())
        return 0
    dsn = owner or config.stores.postgres
    if not dsn:
        raise CommandFailed(
            "stores.postgres is empty, and the embedded server makes its users by itself; this is "
            "for a server of your own"
        )
    path = passfile or _passfile(config)
    made = asyncio.run(_make(dsn, path, renew=renew))
    if made:
        print(f"made {', '.join(made)}; their passwords are in {path}")
    else:
        print("all users were there; their rights are what they should be")
    if not config.stores.roles:
        print(
            f"Now have {path} at each control node, for the user of its node alone, name it in the "
            "DSN (?passfile=…), and write roles = true below [stores]."
        )
    return 0


async def _make(dsn: str, path: Path, *, renew: bool) -> tuple[str, ...]:
    connection = await connect(dsn)
    try:
        with answers():
            await migrate(connection)
            there = await existing(connection)
            fresh = {
                role: secrets.token_urlsafe(32)
                for role in DatabaseRole
                if renew or role not in there
            }
            if fresh:  # before the users: of one that is there, nobody could say the password
                _write(path, fresh)
            await make(connection, fresh, renew=renew)
            await grant(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise CommandFailed(
            f"the user of this DSN has not the right ({error}); give that of the schema's owner "
            "with --owner, and if it may not make users, have an administrator run what "
            "`tether db roles --print` prints first"
        ) from error
    finally:
        await connection.close(timeout=5)
    return tuple(str(role) for role in fresh)


def _passfile(config: Config) -> Path:
    named = parse_qs(urlsplit(config.stores.postgres).query).get("passfile", [""])[0]
    return Path(named).expanduser() if named else config.folder / "pgpass"


def _write(path: Path, fresh: dict[DatabaseRole, str]) -> None:
    """Lines of others stay; a line of ours is replaced."""
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        ours = tuple(f"*:*:*:{role}:" for role in fresh)
        kept = [line for line in lines if not line.startswith(ours)]
        added = [f"*:*:*:{role}:{password}" for role, password in fresh.items()]
        write_private(path, "\n".join((*kept, *added)) + "\n")
    except OSError as error:
        raise CommandFailed(f"{path} can't be written ({error.strerror}); name another one with "
                            "--passfile") from None  # fmt: skip


def _printed() -> str:
    lines = [
        "-- Users of Tether; as who may make users. Then give each a password: \\password NAME"
    ]
    lines += [
        f"DO $$ BEGIN {making(role)}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        for role in DatabaseRole
    ]
    lines.append(
        "-- Their rights; as the owner of the schema. `tether db roles` does this part, too."
    )
    lines += [f"{statement};" for statement in granting()]
    return "\n".join(lines)
