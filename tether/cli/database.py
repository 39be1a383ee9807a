"""The commands `tether db`, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

_CONFIG = Path("cluster.toml")

db = App(name="db", help="The users of a PostgreSQL of your own.")


@db.command
def roles(
    *,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = _CONFIG,
    owner: str = "",
    passfile: Path | None = None,
    renew: bool = False,
    print_: Annotated[bool, Parameter(name="--print", negative="")] = False,
) -> int:
    """Migrate the schema, and give each kind of actor a user with the rights that it needs. Safe to
    repeat, and to be repeated after an upgrade.

    Parameters
    ----------
    config
        The configuration file.
    owner
        The DSN of the owner of the schema; by default stores.postgres. No node needs it.
    passfile
        Where the passwords go, in the format of libpq; by default the `passfile` of
        stores.postgres, else `pgpass` beside the configuration.
    renew
        Give users that are there already a new password, too.
    print_
        Only print the SQL, without passwords, for who has the right to make users.
    """
    from tether.cli.database_users import roles as run
    from tether.config import load

    return run(load(config), owner=owner, passfile=passfile, renew=renew, only_print=print_)
