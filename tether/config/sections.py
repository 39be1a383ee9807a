"""The sections of `cluster.toml` as frozen values; their defaults are safe in production.

Bounds stand in the types, so that a field is described once: `reading` checks each leaf
against its annotation, and `rules` checks what concerns several fields.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """What all sections share: frozen, by keyword."""


class Cluster(Section, frozen=True, kw_only=True):
    """Which network this node belongs to. Placement prefers workers of the same region."""

    name: Word = "tether"
    region: Word = "local"


class Node(Section, frozen=True, kw_only=True):
    """This machine's part. `data_dir` is taken from the folder of the file when relative.
    `admin_port` is part of the address of Thespian's Admin, and is not listened on
    while a node is alone. `cache_dir` holds converted models; empty means
    `$XDG_CACHE_HOME/tether`, or `.cache` beside the file."""

    id: Word = "n1"
    data_dir: Annotated[str, Meta(min_length=1)] = ".tether"
    cache_dir: str = ""
    admin_port: Annotated[int, Meta(ge=1, le=65535)] = 1900
    start_deadline_s: Seconds = 300.0
    stop_deadline_s: Seconds = 30.0


class Http(Section, frozen=True, kw_only=True):
    """The front door. `port` 0 picks a free one, which `tether up` prints. `cors_origins` are
    full origins, or `*`; none means that browsers of other origins are refused."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8080
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 4 << 20
    default_deadline_s: Seconds = 120.0
    max_deadline_s: Seconds = 600.0


class Stores(Section, frozen=True, kw_only=True):
    """`postgres` is a DSN (`postgresql://user@host/name`); empty runs an embedded PostgreSQL in
    the data directory, whose superuser listens on a Unix socket only."""

    postgres: str = ""


class Gateway(Section, frozen=True, kw_only=True):
    """`partitions` gateways share the tenants by stable hash. One gateway holds at most
    `max_sessions` answers, and in all of their journals at most `journal_tokens` token ids and
    `journal_characters` of text."""

    partitions: Annotated[int, Meta(ge=1, le=256)] = 1
    max_sessions: Positive = 8192
    journal_tokens: Positive = 8_000_000
    journal_characters: Positive = 128_000_000


class Limits(Section, frozen=True, kw_only=True):
    """What one tenant may do unless its row in PostgreSQL says otherwise. 0 means no limit."""

    requests_per_minute: Annotated[int, Meta(ge=0)] = 6_000
    tokens_per_minute: Annotated[int, Meta(ge=0)] = 2_000_000
    max_concurrency: Annotated[int, Meta(ge=0)] = 256


class Model(Section, frozen=True, kw_only=True):
    """One model of the catalog. `source` is a folder, or `package:NAME` for weights that came
    with a Python package; engine `echo` has none. `context` is in tokens."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,126}$")]
    version: Word = "1"
    engine: Literal["echo", "transformers"]
    source: str = ""
    context: Annotated[int, Meta(ge=16, le=1 << 24)] = 2048
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def ref(self) -> str:
        """The full name, `name@version`."""
        return f"{self.name}@{self.version}"


class Worker(Section, frozen=True, kw_only=True):
    """`count` worker processes, each with `slots` requests at once over `models` (names or
    `name@version`) and `threads` of the processor for its engine."""

    id: Word
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    slots: Annotated[int, Meta(ge=1, le=4096)] = 8
    max_queue: Annotated[int, Meta(ge=0, le=1_000_000)] = 64
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    count: Annotated[int, Meta(ge=1, le=256)] = 1

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each process: `id` itself, or `id-0`, `id-1` … when there are several."""
        if self.count == 1:
            return (self.id,)
        return tuple(f"{self.id}-{number}" for number in range(self.count))


class Config(Section, frozen=True, kw_only=True):
    """All of `cluster.toml`. `folder` is where the file lies: relative paths start there."""

    cluster: Cluster = Cluster()
    node: Node = Node()
    http: Http = Http()
    stores: Stores = Stores()
    gateway: Gateway = Gateway()
    limits: Limits = Limits()
    models: tuple[Model, ...] = ()
    workers: tuple[Worker, ...] = ()
    folder: Path = Path()

    @property
    def cache_dir(self) -> Path:
        """Where converted models are kept, absolute."""
        if self.node.cache_dir:
            return (self.folder / Path(self.node.cache_dir).expanduser()).resolve()
        shared = os.environ.get("XDG_CACHE_HOME")
        return Path(shared) / "tether" if shared else (self.folder / ".cache").resolve()

    @property
    def data_dir(self) -> Path:
        """The node's own directory, absolute."""
        return (self.folder / Path(self.node.data_dir).expanduser()).resolve()

    def model(self, name: str) -> Model | None:
        """The model that `name` or `name@version` names; of several versions, the last listed."""
        return chosen(self.models, name)


def chosen(models: Sequence[Model], name: str) -> Model | None:
    """See `Config.model`."""
    return next((m for m in reversed(models) if name in (m.name, m.ref)), None)
