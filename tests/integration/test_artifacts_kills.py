"""A loader that is killed with SIGKILL at any operation leaves a cache that is sound."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from actors.artifacts import digest
from actors.artifacts.cache import Cache
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.source import localized
from actors.contracts import ModelCard
from tests.support.artifact_loader import Plan
from tests.support.artifact_shop import Shop, files, flip

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("TETHER_ARTIFACT_KILLS", "10"))
SEED = int(os.environ.get("TETHER_ARTIFACT_SEED", "1"))


class Loaders:
    """Processes that load the shop's model, in a cache of their own."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.artifacts = ArtifactOptions(replicas=tuple(shop.urls), trust_dir=str(shop.trust))
        self.cache_dir = shop.path / "node"
        self.cache = Cache(self.cache_dir / "artifacts", 1 << 30)

    def start(self, end_at: int = 0) -> subprocess.Popen[str]:
        source = f"artifact:{digest.address(self.shop.digest)}"
        plan = Plan(source, str(self.cache_dir), self.artifacts, end_at)
        file = self.shop.path / f"plan-{end_at}.json"
        file.write_bytes(msgspec.json.encode(plan))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.artifact_loader", str(file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT,
        )  # fmt: skip

    def loaded(self, process: subprocess.Popen[str]) -> int:
        """Wait for one that isn't killed; how many operations it took."""
        out, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        found, _, operations = out.strip().rpartition(" ")
        assert self.shop.same(Path(found))
        return int(operations)

    def check(self) -> None:
        """What is handed out is what was pushed, and what has its final name and was not changed
        afterwards is handed out."""
        whole = self.cache.whole(self.shop.digest)
        is_there = whole.path.exists() and not self.is_spoilt
        assert (self.cache.look(self.shop.digest) is not None) == is_there
        if is_there:
            assert self.shop.same(whole.files)

    def spoil(self, at: int) -> None:
        """Change a bit of the weights in the cache."""
        flip(self.cache.whole(self.shop.digest).files / "model.safetensors", at)

    @property
    def is_spoilt(self) -> bool:
        whole = self.cache.whole(self.shop.digest)
        return whole.path.exists() and not self.shop.same(whole.files)


@pytest.fixture
def loaders(tmp_path: Path) -> Loaders:
    shop = Shop(tmp_path)
    asyncio.run(shop.push())
    return Loaders(shop)


def test_killed_at_random_points(loaders: Loaders) -> None:
    """Each kill meets what the one before has left; once in a while somebody finishes, and the
    next begins with a file that was changed meanwhile."""
    operations = loaders.loaded(loaders.start())
    loaders.check()
    assert operations > 50
    loaders.cache.evict(loaders.shop.digest)
    draw = random.Random(SEED)
    left: set[str] = set()
    for number in range(KILLS):
        end_at = draw.randrange(1, operations + 1)
        process = loaders.start(end_at)
        _, errors = process.communicate(timeout=100)
        assert process.returncode in (-signal.SIGKILL, 0), errors
        loaders.check()
        left.update(path.name for path in loaders.cache.root.iterdir())
        if process.returncode == 0:  # what the others had left made it shorter
            loaders.cache.evict(loaders.shop.digest)
        if number % 4 == 3:
            loaders.loaded(loaders.start())
            loaders.check()
            loaders.spoil(draw.randrange(9 << 20))
            loaders.check()
    loaders.loaded(loaders.start())
    loaders.check()
    assert "part" in left  # some were killed halfway
    assert not files(loaders.cache.root / "part") and not files(loaders.cache.root / "trash")


def test_processes_that_load_the_same_at_once(loaders: Loaders) -> None:
    """Three begin together, and one of them is killed: the others take over."""
    doomed = loaders.start(end_at=40)
    others = [loaders.start() for _ in range(2)]
    doomed.communicate(timeout=100)
    for process in others:
        loaders.loaded(process)
    loaders.check()


def test_what_this_process_uses_is_not_evicted(loaders: Loaders) -> None:
    source = f"artifact:{digest.address(loaders.shop.digest)}"
    card = ModelCard(name="tiny", version="1", engine="transformers", source=source)
    ready = localized(card, loaders.cache_dir, loaders.artifacts)
    assert loaders.shop.same(Path(ready.source))
    assert not loaders.cache.evict(loaders.shop.digest)
    assert localized(card, loaders.cache_dir, loaders.artifacts) == ready  # held once, not twice
    plain = ModelCard(name="tiny", version="1", engine="transformers", source="/somewhere")
    assert localized(plain, loaders.cache_dir, loaders.artifacts) is plain
