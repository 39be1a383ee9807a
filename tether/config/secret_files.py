"""The files of a node that hold secrets, and who else than their owner may read them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from supervision.security.authority import KEY
from supervision.security.identity import NODE
from supervision.settings import Problem
from tether.config.cautions import passfile_of, secrets_in
from tether.config.sections import Config

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
#: Of the configuration a group may read: that is how root gives it to the user of the node.
_STRANGERS: Final = stat.S_IWGRP | stat.S_IRWXO


def open_files(config: Config, path: Path) -> Iterator[Problem]:
    """One for each that others may read; `path` is the configuration's own. What isn't on this
    machine, or may not be looked at, is left out."""
    if held := list(secrets_in(config)):
        yield from _looked_at(path, f"the secret in {' and '.join(held)}", _STRANGERS, "640")
    if passfile := passfile_of(config.stores.postgres):
        file = config.folder / Path(passfile).expanduser()
        yield from _looked_at(file, "the database's password")
    if config.redis.password_file:
        password = config.placed(config.redis.password_file)
        yield from _looked_at(password, "the password of redis.url")
    if config.tls_files is not None:
        yield from _looked_at(config.tls_files[1], "the key of http.tls")
    identity = config.identity_dir
    if identity is not None:
        yield from _looked_at(identity / NODE, "the key of the node")
    authorities = [config.folder / "ca"]
    if identity is not None and len(identity.parents) > 1:
        authorities.append(identity.parents[1])  # of `tether ca issue`, which puts it into nodes/
    for folder in dict.fromkeys(authorities):
        yield from _looked_at(folder / KEY, "the key of the cluster's authority")


def _looked_at(
    path: Path, what: str, refused: int = _OTHERS, wanted: str = "600"
) -> Iterator[Problem]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & refused:
        yield Problem(
            str(path),
            f"others than its owner may open it (mode {stat.S_IMODE(mode):o}), and it holds "
            f"{what}; `chmod {wanted} {path}`",
        )
