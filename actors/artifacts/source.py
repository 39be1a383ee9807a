"""The folder, verified, that `source = "artifact:sha256:…"` of a model's card stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts.cache import Cache, Held
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.peers import Peers
from actors.artifacts.pull import Progress, Pull
from actors.artifacts.replicas import Replicas
from actors.artifacts.trust import Trust
from actors.contracts import ModelCard

# What this process has loaded: an engine reads its files as long as it runs, so they are not
# evicted before it ends, or `keep_only` says that it doesn't. The models of the catalog bound it.
_in_use: dict[tuple[Path, str], Held] = {}


def cache_of(cache_dir: Path, artifacts: ArtifactOptions) -> Cache:
    """The cache that all processes of a node share."""
    return Cache(cache_dir / "artifacts", artifacts.cache_bytes)


def trust_of(artifacts: ArtifactOptions) -> Trust | None:
    """Whose signatures count, read now; None if trust is off by name."""
    return None if artifacts.trust == "off" else Trust.load(Path(artifacts.trust_dir))


def now() -> datetime:
    return datetime.now(UTC)


def localized(
    card: ModelCard,
    cache_dir: Path,
    artifacts: ArtifactOptions,
    progress: Progress | None = None,
    peers: Callable[[], Peers] | None = None,
) -> ModelCard:
    """`card` with folders for its source and its adapter where they are artifacts. Blocks, and
    needs a thread without a running loop. `artifacts.trust_dir` must be absolute. `peers` makes
    those that it may come from besides the replicas; it is called on the loop that uses them.

    Raises:
        TetherError: it can't be had, or must not be loaded; the sentence says why.
    """
    cache = cache_of(cache_dir, artifacts)
    folders = {}
    for field in ("source", "adapter"):
        named: str = getattr(card, field)
        if not named.startswith(digests.SOURCE):
            continue
        digest = digests.parse(named)
        held = asyncio.run(_obtained(digest, cache, artifacts, progress, peers))
        before = _in_use.pop((cache.root, digest), None)
        _in_use[cache.root, digest] = held
        if before is not None:
            before.release()
        folders[field] = str(held.folder)
    return msgspec.structs.replace(card, **folders) if folders else card


def keep_only(cards: Iterable[ModelCard], cache_dir: Path, artifacts: ArtifactOptions) -> None:
    """This process reads the artifacts of these cards only: the cache may let all others go."""
    root = cache_of(cache_dir, artifacts).root
    kept = {
        digests.parse(named)
        for card in cards
        for named in (card.source, card.adapter)
        if named.startswith(digests.SOURCE)
    }
    for key in list(_in_use):
        if key[0] == root and key[1] not in kept:
            held = _in_use.pop(key, None)
            if held is not None:
                held.release()


async def _obtained(
    digest: str,
    cache: Cache,
    artifacts: ArtifactOptions,
    progress: Progress | None,
    peers: Callable[[], Peers] | None,
) -> Held:
    replicas, trust = Replicas.of(artifacts), trust_of(artifacts)
    if peers is None:
        return await Pull(cache, replicas, trust, now).obtain(digest, progress)
    others = peers()
    try:
        return await Pull(cache, replicas, trust, now, others).obtain(digest, progress)
    finally:
        await others.aclose()
