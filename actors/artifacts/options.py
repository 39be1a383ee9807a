"""Options of `[artifacts]`: where signed models come from. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from supervision.settings import Seconds, Section


class ArtifactOptions(Section, frozen=True, kw_only=True):
    """Where signed models come from (docs/operations.md). `replicas` are asked in this order:
    `file:///folder`, `s3://bucket/prefix?endpoint=…&region=…&credentials=NAME`, `gs://…`,
    `az://…`. A push goes to all of them, which must be `min_replicas` at least, and holds when
    `quorum` have it. `trust` "required" loads only what a key in `trust_dir` has signed. Models
    are kept on disk up to `cache_bytes`. `parallel` blocks of 8 MiB are under way at once, with at
    most `bandwidth` bytes per second from replicas and other regions (0: no limit). With `peers`,
    the nodes of a cluster lend each other what they have, each at most `peer_bandwidth` bytes per
    second (0: no limit)."""

    replicas: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    min_replicas: Annotated[int, Meta(ge=1, le=64)] = 3
    quorum: Annotated[int, Meta(ge=1, le=64)] = 2
    trust: Literal["required", "off"] = "required"
    trust_dir: Annotated[str, Meta(min_length=1)] = "trust"
    cache_bytes: Annotated[int, Meta(ge=1 << 20)] = 100 << 30
    parallel: Annotated[int, Meta(ge=1, le=256)] = 8
    bandwidth: Annotated[int, Meta(ge=0)] = 0
    timeout_s: Seconds = 60.0
    peers: bool = True
    peer_bandwidth: Annotated[int, Meta(ge=0)] = 0
