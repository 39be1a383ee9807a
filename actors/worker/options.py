"""Options of a worker."""

from __future__ import annotations

from typing import Literal

import msgspec

from actors.artifacts.options import ArtifactOptions
from actors.contracts import ModelCard
from actors.core.answer_options import AnswerOptions
from actors.depot.peer_sources import PeerNodes
from actors.reservation.settle_spool import SpoolOptions


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and times of a worker, in seconds.

    `slots` requests run at once and `queue` more wait. A run whose gateway was lost is kept for
    `grace_s`; a finished one for `keep_s`, at most `kept` of them with `kept_tokens` in all.
    Chunks after the first leave at most `window_s` after the one before, or as soon as they
    have `chunk_characters`. An engine whose process is silent, or makes no step while answers
    run, for `stuck_s` is ended; it is started anew at most `engine_restarts` times in
    `engine_period_s`, then the worker fails. Each engine keeps finished answers in `prefix_mib`,
    for prompts that begin as they do (0: none), sees these `gpus`, and runs in such a `sandbox`
    (see `HostedEngine`). `answers` says of which runs the finished answers are kept.

    `cards` are the configured models. It runs those that the catalog offers and that `models`
    match (`*`, a name, or a full name; none: the configured ones), with `model_memory_mib` for all
    together (0: no limit). Those that `pinned` match are never let go for others; any other one is
    kept for `keep_loaded_s` at least, and makes way for a canary after `idle_s`. The catalog is
    waited for `catalog_s`, then the cards count; with 0 it is not asked, and the cards are all.
    With `elsewhere` other nodes have a registry and a reservation too, or they alone have. Settles
    that no reservation answers go into the `spool` of the node. Leases of what runs are
    renewed every `renew_s`.

    Raises:
        ValueError: a value is out of its range.
    """

    worker_id: str
    node_id: str
    cards: tuple[ModelCard, ...]
    cache_dir: str
    artifacts: ArtifactOptions = ArtifactOptions()
    around: PeerNodes = PeerNodes()
    region: str = "local"
    slots: int = 8
    queue: int = 64
    threads: int = 1
    gpus: str = "all"
    sandbox: Literal["required", "auto", "off"] = "auto"
    grace_s: float = 10.0
    keep_s: float = 30.0
    kept: int = 1024
    kept_tokens: int = 1_000_000
    window_s: float = 0.02
    chunk_characters: int = 4096
    report_s: float = 5.0
    unsettled: int = 2048
    answers: AnswerOptions = AnswerOptions()
    stuck_s: float = 60.0
    probe_s: float = 30.0
    engine_restarts: int = 3
    engine_period_s: float = 60.0
    prefix_mib: int = 256
    models: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    model_memory_mib: int = 0
    gpu_class: str = "cpu"
    keep_loaded_s: float = 5.0
    idle_s: float = 60.0
    catalog_s: float = 2.0
    elsewhere: bool = False
    spool: SpoolOptions = SpoolOptions()
    renew_s: float = 4.0

    def __post_init__(self) -> None:
        if not self.cards and not self.models:
            raise ValueError(f"worker {self.worker_id} has no models")
        if len({card.ref for card in self.cards}) != len(self.cards):
            raise ValueError(f"worker {self.worker_id} has a model twice")
        for name in ("slots", "threads", "chunk_characters", "unsettled"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of worker {self.worker_id} must be at least 1")
        for name in ("stuck_s", "probe_s", "engine_period_s", "renew_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of worker {self.worker_id} must be above 0")
        for name in (
            "engine_restarts",
            "queue",
            "kept",
            "kept_tokens",
            "model_memory_mib",
            "prefix_mib",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} of worker {self.worker_id} must not be negative")
        for name in ("keep_s", "window_s", "grace_s", "keep_loaded_s", "idle_s", "catalog_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of worker {self.worker_id} must not be negative")
        if not self.report_s > 0:
            raise ValueError(f"report_s of worker {self.worker_id} must be above 0")
