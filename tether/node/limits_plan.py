"""The plan of a node's limits: where they are added up, and which part of them it has. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from actors.stores.embedded_valkey import socket_url
from actors.stores.limit_store import LimitStoreOptions
from actors.valkey import Valkey, ValkeyOptions
from supervision.spec import ChildSpec
from tether.config import Config

VALKEY_SOCKETS: Final = ".vk"  # below the run directory; no node id begins with a dot
_PASSWORD: Final = "password"


class LimitsPlan(NamedTuple):
    """`store` is where; `parts` of those that share it is one node's while it is away, and `share`
    is what of all limits is added up there."""

    store: LimitStoreOptions
    parts: int
    share: float


def limits_plan(config: Config, run_dir: Path) -> LimitsPlan:
    """That of a control node."""
    count = max(1, sum("control" in member.roles for member in config.nodes))
    redis = config.redis
    if redis.url:
        file = str(config.placed(redis.password_file)) if redis.password_file else ""
        store = LimitStoreOptions(
            url=redis.url,
            password_file=file,
            ca=str(config.placed(redis.ca)) if redis.ca else "",
            cluster=config.cluster.name,
        )
        return LimitsPlan(store, count, 1.0)
    own = LimitStoreOptions(
        url=socket_url(run_dir / VALKEY_SOCKETS),
        password_file=str(_data(config) / _PASSWORD),
        cluster=config.cluster.name,
    )
    return LimitsPlan(own, 1, 1 / count)


def valkey(config: Config, run_dir: Path) -> ChildSpec | None:
    """The node's own Valkey, if it is to have one."""
    if config.redis.url or not config.has_role("control"):
        return None
    return Valkey.spec(
        ValkeyOptions(data_dir=str(_data(config)), socket_dir=str(run_dir / VALKEY_SOCKETS))
    )


def _data(config: Config) -> Path:
    return config.data_dir / "valkey"
